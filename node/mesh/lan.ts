// What an AP does that is in no mesh and has no ticket: it looks for members on the LAN, and asks one of them to be let in.
import { randomBytes } from 'node:crypto'
import { setTimeout as pause } from 'node:timers/promises'
import type { Libp2p } from '@libp2p/interface'
import type { Multiaddr } from '@multiformats/multiaddr'
import { codeOf, commitTo, NONCE_BYTES } from '../../protocols/asking.js'
import { apKey, hex } from '../../protocols/bytes.js'
import { MeshError, messageOf } from '../../protocols/error.js'
import type { Signer } from '../../protocols/keys.js'
import { MAX_ASK_FRAME } from '../../protocols/limits.js'
import { meshIdOf, meshText } from '../../protocols/membership.js'
import { takePapers } from '../../protocols/ticket.js'
import { ASK, askedReply, lookReply, pollReply } from '../../protocols/wire.js'
import type { Welcome } from '../belonging.js'
import { printable } from '../events.js'
import { exchange, Frames } from './frames.js'
import { createAsker, lanService, peerId } from './host.js'

/** All in milliseconds. */
export const PACE = {
  /** For how long an AP looks before it says what there is. */
  look: 3000,
  /** How often it asks meanwhile. */
  lookEvery: 1000,
  /** How often later, as long as it waits: members may come and move. All answer to all, so rarely. */
  seekEvery: 10_000,
  /** How often one that waits asks whether it was let in. */
  poll: 2000,
  /** A member that has not answered for so long is given up for another one. */
  patience: 10_000,
  /** Before a new code is made, twice as long each time: who could have many made could hope that two are equal by chance. */
  anew: 5000,
  anewCap: 60_000,
}
/** Members that are remembered: enough to find one that answers, and anyone on the LAN can announce any number. */
const MOST = 16
const DEADLINE = 5000

export interface AskOptions {
  readonly seed: Uint8Array
  readonly signer: Signer
  readonly about: { readonly name: string; readonly labels: Readonly<Record<string, string>> }
  /** The mesh to ask where there are several, or the beginning of its id. */
  readonly mesh: string | undefined
  now(): number
  /** Tells the person at the AP. */
  say(text: string): void
}

interface Found {
  readonly ap: string
  readonly addresses: readonly Multiaddr[]
  readonly meshKey: Uint8Array
  readonly name: string
}

/**
 * Looks for a mesh on the LAN and asks it to let this AP in, for as long as that takes. Resolves with nothing where there is none,
 * and none was named.
 * @throws MeshError `several-meshes`
 */
export async function askOnLan(options: AskOptions): Promise<Welcome | undefined> {
  const host = await createAsker(options.seed)
  const found = new Map<string, Found>()
  const looking = new Set<string>()
  const onPeer = (ap: string, addresses: readonly Multiaddr[]) => {
    const known = found.get(ap)
    if (looking.has(ap) || String(known?.addresses) === String(addresses)) return
    if (known === undefined && found.size + looking.size >= MOST) return
    looking.add(ap)
    look(host, ap, addresses)
      .then((member) => found.set(ap, member))
      .catch(() => found.delete(ap))
      .finally(() => looking.delete(ap))
  }
  let service = lanService(host, { every: PACE.lookEvery, onPeer })
  try {
    await service.start()
    await pause(PACE.look)
    // One that was heard of may just be slow to say who it is.
    for (const until = performance.now() + DEADLINE; looking.size > 0 && performance.now() < until; ) await pause(100)
    let meshKey = choose(found, options.mesh)
    if (meshKey === undefined && options.mesh === undefined) return undefined
    await service.stop()
    service = lanService(host, { every: PACE.seekEvery, onPeer })
    await service.start()
    if (meshKey === undefined) options.say(`no mesh ${options.mesh} is on the LAN yet; it is waited for`)
    while (meshKey === undefined) {
      await pause(PACE.lookEvery)
      meshKey = choose(found, options.mesh)
    }
    const members = () => [...found.values()].filter((one) => hex(one.meshKey) === hex(meshKey))
    return await askUntilIn(host, members, options)
  } finally {
    await service.stop()
    await Promise.race([host.stop(), pause(1000)])
  }
}

/** @returns the mesh key. @throws MeshError `several-meshes` */
function choose(found: ReadonlyMap<string, Found>, wanted: string | undefined): Uint8Array | undefined {
  const meshes = new Map([...found.values()].map(({ meshKey }) => [meshText(meshIdOf(meshKey)), meshKey]))
  const names = [...meshes.keys()].sort()
  const meant = wanted === undefined ? names : names.filter((mesh) => mesh.startsWith(wanted))
  if (meant.length > 1) {
    throw new MeshError(
      'several-meshes',
      `there are several meshes on the LAN, and none of them was asked: ${meant.join(', ')}; join one with a ticket of it (--join), name the one to ask (--ask), or found another one (--found)`,
    )
  }
  return meshes.get(meant[0] ?? '')
}

async function askUntilIn(host: Libp2p, members: () => readonly Found[], options: AskOptions): Promise<Welcome> {
  let wait = PACE.anew
  let told: string | undefined
  for (let turn = 0; ; turn++) {
    const all = members()
    const member = all[turn % Math.max(1, all.length)]
    try {
      if (member !== undefined) return await askMember(host, member, options)
    } catch (error) {
      const text = `not let in yet: ${member!.name} ${printable(messageOf(error))}`
      if (text !== told) options.say(text)
      told = text
    }
    await pause(wait)
    wait = Math.min(PACE.anewCap, wait * 2)
  }
}

async function look(host: Libp2p, ap: string, addresses: readonly Multiaddr[]): Promise<Found> {
  const [, meshKey, name] = await speak(host, { ap, addresses }, async (frames) => {
    await frames.write(['look'])
    return frames.read(lookReply)
  })
  return { ap, addresses, meshKey, name }
}

/** @throws where the member refuses, does not answer any more, or has forgotten who asked */
async function askMember(host: Libp2p, member: Found, options: AskOptions): Promise<Welcome> {
  const { meshKey } = member
  const { about, signer, say } = options
  const askerNonce = new Uint8Array(randomBytes(NONCE_BYTES))
  const code = await speak(host, member, async (frames) => {
    await frames.write(['ask', commitTo(askerNonce), about.name, about.labels])
    const reply = await frames.read(askedReply)
    if (reply[0] === 'refused') throw new MeshError('ask-refused', `says: ${printable(reply[1])}`)
    await frames.write(['reveal', askerNonce])
    await frames.read(pollReply)
    const keys = { meshKey, asker: signer.publicKey, member: apKey(member.ap) }
    return codeOf({ ...keys, askerNonce, memberNonce: reply[1] })
  })
  const mesh = meshText(meshIdOf(meshKey))
  const reply = await poll(host, member)
  if (reply[0] === 'waiting') {
    say(`found mesh ${mesh} on the LAN, and asked its AP ${member.name} to be let in`)
    say(`the code is ${code.slice(0, 3)} ${code.slice(3)}; an admin at ${member.name} types: dropmesh approve ${code}`)
  }
  let heardAt = performance.now()
  for (let answer: typeof reply | undefined = reply; ; answer = await poll(host, member).catch(() => undefined)) {
    if (answer?.[0] === 'let-in') {
      const approval = { grant: answer[1], admission: answer[2] }
      const papers = takePapers(approval, meshKey, signer, options.now(), about)
      say(`let into mesh ${mesh}`)
      return { meshKey, papers, addresses: member.addresses.map((address) => `${address}/p2p/${member.ap}`) }
    }
    if (answer?.[0] === 'unknown') throw new Error('does not know any more that this AP asked')
    if (answer !== undefined) heardAt = performance.now()
    else if (performance.now() - heardAt > PACE.patience) throw new Error('does not answer any more')
    await pause(PACE.poll)
  }
}

const poll = (host: Libp2p, member: Found) =>
  speak(host, member, async (frames) => {
    await frames.write(['poll'])
    return frames.read(pollReply)
  })

/** One exchange, over the connection that is there, or a new one: a member parts with strangers after a while. */
async function speak<T>(
  host: Libp2p,
  { ap, addresses }: Pick<Found, 'ap' | 'addresses'>,
  run: (frames: Frames) => Promise<T>,
): Promise<T> {
  const signal = AbortSignal.timeout(DEADLINE)
  const open = host.getConnections(peerId(ap)).find(({ status }) => status === 'open')
  const connection = open ?? (await host.dial(addresses.map(withId(ap)), { signal }))
  const stream = await connection.newStream(ASK, { signal })
  return exchange(stream, () => run(new Frames(stream, MAX_ASK_FRAME, DEADLINE)))
}

const withId = (ap: string) => (address: Multiaddr) =>
  address.toString().includes('/p2p/') ? address : address.encapsulate(`/p2p/${ap}`)
