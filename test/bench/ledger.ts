// What the ledger costs: checking and storing records, making two ledgers equal, joining, and starting with a big one.
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { NodeClock } from '../../node/clock.js'
import { loadSeed } from '../../node/identity.js'
import { exchange } from '../../node/mesh/frames.js'
import { openStream } from '../../node/mesh/host.js'
import { initiateSync, syncFrames } from '../../node/mesh/sync.js'
import { LedgerStore } from '../../node/store/ledger-store.js'
import { Store } from '../../node/store/store.js'
import { instanceSubject } from '../../protocols/chute.js'
import { type SignedRecord, seal } from '../../protocols/envelope.js'
import { apSigner, type Signer } from '../../protocols/keys.js'
import { protocolIds } from '../../protocols/wire.js'
import { type Peer, Peers } from '../node/mesh/support.js'
import { Realm, seed } from '../node/realm.js'
import { TestMesh } from '../support/mesh.js'
import { scratch } from '../support/scratch.js'
import { median, repeat, report, summary } from './measure.js'

const RUNS = 5
const LEDGER = 10_000
const DIFFERENCE = 10
const BIG = 100_000
/** Records that come together: about what fits a frame of the sync protocol. */
const PAGE = 512

const DAY = 24 * 3_600_000

/** Claims, the most common records of a mesh that has run for long, by some hundred APs. */
function claims(n: number, mesh: Uint8Array, signers: readonly Signer[], from = 0): SignedRecord[] {
  return Array.from({ length: n }, (_, i) => {
    const chute = new Uint8Array(20)
    new DataView(chute.buffer).setUint32(0, from + i)
    const body = { epoch: 1 + (i % 5), cause: 'dead', previous: new Uint8Array(32) }
    return seal(signers[i % signers.length]!, mesh, [Date.now() - DAY + i, 0], 'claim', instanceSubject(chute, 0), body)
  })
}

/** As many APs as may put that many claims into a ledger, 1024 each. */
const APS = 128
const someSigners = () => Array.from({ length: APS }, () => apSigner(seed()))
/** What lets them in: a ledger takes in nothing else of them before. */
const papersOf = (realm: Realm, signers: readonly Signer[]): SignedRecord[] => [
  realm.grant,
  ...signers.map((signer, i) => realm.member(signer, `ap${i}`)),
]
const pages = (records: readonly SignedRecord[]): Uint8Array[][] =>
  Array.from({ length: Math.ceil(records.length / PAGE) }, (_, i) =>
    records.slice(i * PAGE, (i + 1) * PAGE).map(({ bytes }) => bytes),
  )

export async function ledger(): Promise<void> {
  await storing()
  await syncing()
  await starting()
}

async function storing(): Promise<void> {
  const realm = new Realm()
  const signers = someSigners()
  const records = claims(LEDGER, realm.mesh, signers)
  const rates = await repeat(RUNS, async () => {
    const store = await Store.open(join(scratch('bench'), 'ledger'))
    const gate = await LedgerStore.load(store, realm.mesh, new NodeClock())
    await gate.accept(papersOf(realm, signers).map(({ bytes }) => bytes))
    const before = process.cpuUsage()
    for (const page of pages(records)) await gate.accept(page)
    const { user, system } = process.cpuUsage(before)
    await store.close()
    return LEDGER / ((user + system) / 1e6)
  })
  report(`Checking and storing ${LEDGER} records in batches of ${PAGE}, synced to disk`, [
    `records a second of CPU   ${summary(rates, '', 0)}; target 4000`,
  ])
}

/** One exchange with `b`, its bytes in both directions, and how often the direction changed from here to there. */
async function measured(a: Peer, b: Peer): Promise<{ bytes: number; roundTrips: number; moved: number }> {
  const stream = await openStream(a.network.host, b.id, protocolIds(a.realm.text).sync, AbortSignal.timeout(5000))
  let bytes = 0
  let roundTrips = 0
  let isOurTurn = true
  stream.addEventListener('message', ({ data }) => {
    bytes += data.byteLength
    if (isOurTurn) roundTrips++
    isOurTurn = false
  })
  const send = stream.send.bind(stream)
  stream.send = (data) => {
    bytes += data.byteLength
    isOurTurn = true
    return send(data)
  }
  const deps = {
    store: a.ledgerStore,
    ownBeacons: () => [],
    peerBeacons: () => [],
    onBeacon: () => {},
    onRefused: () => {},
  }
  const { sent, received } = await exchange(stream, () => initiateSync(syncFrames(stream), deps))
  return { bytes, roundTrips, moved: sent + received }
}

async function syncing(): Promise<void> {
  const peers = new Peers()
  const { realm } = peers
  const [a, b] = (await peers.members(2)) as [Peer, Peer]
  for (const { network } of [a, b]) Reflect.set(network, 'compareDigest', () => {}) // only what is measured syncs
  await a.meet(b)
  const signers = someSigners()
  const shared = claims(LEDGER - DIFFERENCE, realm.mesh, signers)
  const all = [...papersOf(realm, signers), ...shared]
  for (const peer of [a, b]) for (const page of pages(all)) await peer.ledgerStore.accept(page)
  const costs = { bytes: [] as number[], roundTrips: [] as number[] }
  for (let run = 0; run < RUNS; run++) {
    const difference = claims(DIFFERENCE, realm.mesh, signers, (run + 1) * 100_000)
    const half = difference.length / 2
    await a.ledgerStore.accept(difference.slice(0, half).map(({ bytes }) => bytes))
    await b.ledgerStore.accept(difference.slice(half).map(({ bytes }) => bytes))
    const { bytes, roundTrips, moved } = await measured(a, b)
    if (moved !== DIFFERENCE) throw new Error(`${moved} records moved`)
    costs.bytes.push(bytes / 1000)
    costs.roundTrips.push(roundTrips)
  }
  report(`Two ledgers of ${LEDGER} records that differ in ${DIFFERENCE} become equal`, [
    `bytes in both directions   ${summary(costs.bytes, 'kB', 1)}; target 40 kB`,
    `round trips                ${summary(costs.roundTrips, '', 0)}; target 6`,
  ])
  const rates = await repeat(RUNS, async () => {
    const joiner = await peers.add({ seed: seed(), records: [realm.grant] })
    Reflect.set(joiner.network, 'compareDigest', () => {})
    await a.ledgerStore.accept([realm.member(joiner.signer, 'joiner').bytes])
    await joiner.ledgerStore.accept(membersOf(a).map(({ bytes }) => bytes))
    joiner.network.dialler.learn(a.id, a.addresses)
    const startedAt = performance.now()
    while (joiner.digest !== a.digest) await new Promise((resolve) => setTimeout(resolve, 5))
    const seconds = (performance.now() - startedAt) / 1000
    await joiner.stop()
    return a.ledgerStore.ledger.size / seconds
  })
  report(`A joiner with nothing takes ${LEDGER} records from a peer in the same process, dialling included`, [
    `records a second   ${summary(rates, '', 0)}; target 3000`,
  ])
  await peers.stop()
}

const membersOf = ({ ledgerStore }: Peer) => ledgerStore.ledger.records().filter(({ kind }) => kind === 'member')

async function starting(): Promise<void> {
  const mesh = new TestMesh()
  try {
    const [ap] = await mesh.start(1)
    const empty = await residentMegabytes(ap!.pid)
    await ap!.stop()
    const store = await Store.open(join(ap!.data, 'ledger'))
    const realm = new Realm(await loadSeed(join(ap!.data, 'keys'), 'mesh'))
    const signers = someSigners()
    const records = [...papersOf(realm, signers), ...claims(BIG, realm.mesh, signers)]
    for (let at = 0; at < records.length; at += PAGE)
      await store.writeRecords(records.slice(at, at + PAGE), [], Date.now())
    await store.close()
    const memory: number[] = []
    const seconds = await repeat(RUNS, async () => {
      const startedAt = performance.now()
      await ap!.start()
      const took = (performance.now() - startedAt) / 1000
      const { ledger } = await ap!.status()
      if (ledger.records < BIG) throw new Error(`${ledger.records} records`)
      await new Promise((resolve) => setTimeout(resolve, 5000))
      memory.push(await residentMegabytes(ap!.pid))
      await ap!.stop()
      return took
    })
    report(`A node with ${BIG} records (${Math.round(median(records.map(({ bytes }) => bytes.length)))} bytes each)`, [
      `start until its API answers   ${summary(seconds, 's')}; target 3 s`,
      `resident memory               ${summary(memory, 'MB', 0)}; without records ${empty.toFixed(0)} MB`,
    ])
  } finally {
    await mesh.close()
  }
}

async function residentMegabytes(pid: number): Promise<number> {
  const line = /VmRSS:\s+(\d+) kB/.exec(await readFile(`/proc/${pid}/status`, 'utf8'))
  return (Number(line![1]) * 1024) / 1e6
}
