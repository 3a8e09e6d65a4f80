// Events as sentences.
import type { MeshEvent } from '../node/events.js'

const who = (event: MeshEvent): string => `AP ${event.name ?? event.ap}`

/** From whom how much came; layers that the engine had did not have to. */
const arrival = ({ from, bytes }: MeshEvent): string => {
  const aps = [from].flat()
  return aps.length === 0 ? 'was here but for its name' : `came from ${aps.join(' and ')}, ${bytes} bytes`
}

const short = (key: unknown): string => String(key).slice(0, 12)

const sentences: Record<string, (event: MeshEvent) => string> = {
  up: (e) => `this AP is ${e.name} (${e.ap}), in mesh ${e.mesh}`,
  joined: (e) => `${who(e)} is a member of the mesh`,
  forgotten: (e) => `${who(e)} is a member no more${e.reason === undefined ? '' : `: it ${e.reason}`}`,
  asked: (e) =>
    `${who(e)} at ${e.address} asks to be let in, code ${e.code}: if it shows the same one, type dropmesh approve ${e.code}`,
  approved: (e) => `${who(e)} may come in: key ${short(e.by)} approved it`,
  'join-failed': (e) => `not let in yet: ${e.reason}`,
  suspected: (e) => `${who(e)} is suspected: it gives no sign of life`,
  accused: (e) => `${e.by} could not reach ${who(e)} for ${e.silence} ms and signed it`,
  dead: (e) => {
    const after = e.silence === null ? '' : `, ${e.silence} ms after its last sign`
    return `${who(e)} is dead${after}; witnesses: ${(e.witnesses as string[]).join(', ')}`
  },
  alive: (e) => `${who(e)} is alive`,
  left: (e) => `${who(e)} left as planned`,
  granted: (e) => `key ${short(e.by)} signed a grant of the role ${e.role} for key ${short(e.key)}`,
  revoked: (e) => `key ${short(e.by)} signed that key ${short(e.key)} is revoked, but for ${e.kept} of its records`,
  draining: (e) => `${who(e)} is being drained`,
  undrained: (e) => `${who(e)} takes chutes again`,
  claimed: (e) => `${who(e)} claims ${e.instance}, epoch ${e.epoch} (${e.cause})`,
  published: (e) => `chute ${e.chute} was published, revision ${e.revision}`,
  conflict: (e) => {
    const [winner, loser] = [e.winner, e.loser].map((one) => {
      const { revision, hash, signed } = one as { revision: number; hash: string; signed: string }
      return `revision ${revision} of ${signed} (${hash.slice(0, 12)})`
    })
    return `chute ${e.chute} was published on two sides: ${winner} counts, ${loser} stays in "dropmesh history ${e.chute}"`
  },
  'name-shared': (e) =>
    `several publishers have a chute ${e.chute}: type ${(e.publishers as string[]).map((key) => `${key.slice(0, 12)}/${e.chute}`).join(' or ')}`,
  wanted: (e) => `chute ${e.chute} is to be ${e.desired}`,
  secret: (e) => `secret ${e.secret} of chute ${e.chute} was ${e.isSet ? 'set' : 'removed'}`,
  'secret-given': (e) => `${e.by} gave the secrets of chute ${e.chute} to AP ${e.name}`,
  removed: (e) => `chute ${e.chute} was removed`,
  'lease-taken': (e) => `this AP has the lease of ${e.instance}, epoch ${e.epoch}`,
  'lease-lost': (e) => `this AP has lost the lease of ${e.instance}: ${e.reason}`,
  voters: (e) =>
    `chute ${e.chute} has other voters: ${(e.voters as string[]).join(', ')}; it stands still for some ten seconds`,
  started: (e) => `${e.instance} was started, revision ${e.revision}, epoch ${e.epoch}`,
  stopped: (e) => `${e.instance} was stopped`,
  'branch-kept': (e) =>
    `AP ${e.name} goes on with ${e.instance}; what was written here to ${(e.volumes as string[]).join(', ')} stays here`,
  migrated: (e) =>
    `${e.instance} runs on AP ${e.to} instead of ${e.from} (${e.cause}), ${e.ms === 0 ? 'and ran until then' : `${e.ms} ms after the last sign of that`}`,
  crashed: (e) => `${e.instance}: service ${e.service} ${e.reason}`,
  unhealthy: (e) => `${e.instance}: service ${e.service} fails its health check`,
  cannot: (e) => `this AP cannot run ${e.instance}: ${e.reason}`,
  'image-fetched': (e) => `image ${String(e.image).slice(0, 12)} ${arrival(e)}`,
  'image-prepared': (e) =>
    `image ${String(e.image).slice(0, 12)} ${arrival(e)}, for a chute that this AP would run next`,
  lied: (e) => `AP ${e.ap} sent what is not blob ${String(e.blob).slice(0, 12)}; nothing is fetched from it any more`,
  'image-removed': (e) =>
    `image ${String(e.image).slice(0, 12)} was removed from the engine: no chute has run from it for an hour`,
  'image-not-prepared': (e) => `image ${String(e.image).slice(0, 12)} was not fetched ahead: ${e.reason}`,
  synced: (e) => `synced with ${e.ap}: ${e.received} records received, ${e.sent} sent`,
  refused: (e) => `a message from ${e.from} was refused: ${e.reason}`,
  throttled: (e) => `${e.name ?? e.from} is not heard for a while: ${e.reason}`,
  'shut-out': (e) => `${e.name ?? e.from} is shut out for ${Number(e.ms) / 1000} s: ${e.reason}`,
  'engine-found': (e) => `container engine ${e.version} answers`,
  'engine-lost': (e) => `the container engine does not answer: ${e.reason}`,
  repaired: (e) => `the ledger on disk was damaged and is repaired: ${e.found}; ${e.lost} records were lost`,
  'disk-fails': (e) => `the disk does not take what is to be written: ${e.reason}`,
  'disk-works': () => 'the disk takes what is to be written again, and has it all',
  twin: (e) => `another node uses the identity of this AP: ${e.reason}`,
}

/** One line: time (UTC), kind, sentence. Control characters of strangers do not reach the terminal. */
export function describeEvent(event: MeshEvent): string {
  const sentence = sentences[event.kind]?.(event) ?? JSON.stringify(event)
  // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what must not get through
  return `${event.at.slice(11, 23)}  ${event.kind.padEnd(13)}  ${sentence.replace(/[\u0000-\u001f\u007f-\u009f]/g, '?')}`
}
