// What happens in a run: made from the seed, as a list of actions with their times, so that it can be made shorter. An action
// that makes no sense where others were left out (a chute that was never published) does nothing.
import { majority } from '../../protocols/rendezvous.js'
import { type Build, EPOCH } from './host.js'
import { type Fate, hostileOf } from './hostile.js'
import { Random } from './random.js'

export type Action = { readonly at: number } & (
  | { readonly do: 'publish'; readonly host: number; readonly chute: number; readonly shape: Shape }
  | { readonly do: 'stop' | 'start' | 'restart' | 'remove'; readonly host: number; readonly chute: number }
  | { readonly do: 'kill' | 'power-cut' | 'leave' | 'pause'; readonly host: number; readonly lasts: number }
  | { readonly do: 'destroy'; readonly host: number }
  | { readonly do: 'join'; readonly host: number; readonly via: number }
  | { readonly do: 'forget' | 'drain' | 'undrain'; readonly host: number; readonly of: number }
  /** Nothing comes through between these and the others, or one way only. */
  | {
      readonly do: 'cut'
      readonly hosts: readonly number[]
      readonly way: 'both' | 'out' | 'in'
      readonly lasts: number
    }
  | { readonly do: 'flap'; readonly host: number; readonly period: number; readonly lasts: number }
  | { readonly do: 'loss'; readonly rate: number; readonly lasts: number }
  | { readonly do: 'disk-full' | 'engine-down'; readonly host: number; readonly lasts: number }
  | { readonly do: 'engine-fails'; readonly host: number; readonly rate: number; readonly lasts: number }
  | { readonly do: 'container-crash'; readonly host: number }
  | { readonly do: 'set-clock'; readonly host: number; readonly skew: number }
  /** An admin takes back, at this host, what a publisher may: by a grant that ends so much later, or by a revocation. */
  | { readonly do: 'end-grant'; readonly host: number; readonly publisher: number; readonly lasts: number }
  | { readonly do: 'revoke'; readonly host: number; readonly publisher: number }
  /** It sends what its key can sign, until all is healed or to the end. */
  | { readonly do: 'turn-hostile'; readonly host: number; readonly fate: Fate }
)

/** What of a chute's manifest matters here. */
export interface Shape {
  readonly replicas: number | 'everywhere'
  readonly hasVolume: boolean
  readonly label: string | undefined
  readonly isExclusive: boolean
}

export interface Scenario {
  readonly seed: string
  /** The hosts of the mesh at its beginning, then those that join. */
  readonly builds: readonly Build[]
  readonly founders: number
  readonly actions: readonly Action[]
}

/** Milliseconds: when troubles begin, when all of them are over, and how long it is quiet then. */
const CALM = 6000
const STORM = 50_000
export const HEALED = CALM + STORM
const QUIET = 75_000
export const END = HEALED + QUIET

const CHUTES = 8
/** A clock that is less behind does no harm, for records that are five minutes ahead count. In milliseconds. */
const FAR_BEHIND = -240_000

export function generate(seed: string, aps: number): Scenario {
  const random = new Random(`${seed}/scenario`)
  const joiners = aps > 3 && random.chance(0.6) ? 1 + random.int(3) : 0
  const drawn = Array.from({ length: aps + joiners }, (_, i) => buildOf(random.fork(`build ${i}`), i))
  const builds = withClocks(drawn, aps)
  const troubles = 4 + random.int(4 + aps)
  const actions: Action[] = []
  for (let i = 0; i < 3 + random.int(4); i++) actions.push(publish(random, random.between(500, CALM), aps))
  for (let i = 0; i < joiners; i++) {
    actions.push({ at: CALM + random.between(0, STORM * 0.8), do: 'join', host: aps + i, via: random.int(aps) })
  }
  for (let i = 0; i < troubles; i++) actions.push(trouble(random, CALM + random.between(0, STORM * 0.9), aps))
  for (let i = 0; i < 4 + random.int(8); i++) actions.push(command(random, random.between(CALM, HEALED), aps))
  actions.push(...distrust(random.fork('trust'), aps))
  return { seed, builds, founders: aps, actions: actions.sort((a, b) => a.at - b.at) }
}

/** Of a source of its own, so that each seed is otherwise the run that it was. The two admins stay honest. */
function distrust(random: Random, aps: number): Action[] {
  const actions: Action[] = []
  if (random.chance(0.5)) {
    const fates = random.fork('fates')
    const fate = fates.pick(['repents', 'repents', 'is-forgotten', 'lies-on'] as const)
    const others = random.shuffled(Array.from({ length: aps - 2 }, (_, n) => n + 2))
    for (const host of others.slice(0, hostileOf(aps)))
      actions.push({ at: random.between(1000, CALM + STORM / 2), do: 'turn-hostile', host, fate })
    // So that voters change while some of them lie.
    const of = others[hostileOf(aps)]
    if (of !== undefined && fates.chance(0.4))
      actions.push({ at: CALM + fates.between(0, STORM * 0.8), do: 'forget', host: fates.int(2), of })
  }
  if (random.chance(0.4)) {
    const revoked = { do: 'revoke', at: CALM + random.between(0, STORM) } as const
    // It ends so early that it is over by every clock, right or not, once it is quiet; or it was over before it was signed.
    const lasts = random.chance(0.2) ? -43_200_000 : random.between(0, STORM / 4)
    const ended = { do: 'end-grant', at: CALM + random.between(0, STORM / 4), lasts } as const
    actions.push({ ...random.pick([revoked, ended]), host: random.int(aps), publisher: 1 })
  }
  return actions
}

/**
 * An AP whose clock is far behind follows the others, where a majority of them, and two at least, is right (protocols/clock.ts). Where more
 * clocks are wrong than that leaves, which of them is, nobody can tell, and nothing is promised: the rest is put right.
 */
function withClocks(builds: readonly Build[], aps: number): Build[] {
  let mayBeWrong = aps - Math.max(2, majority(aps - 1))
  return builds.map((build) => (build.skew < FAR_BEHIND && --mayBeWrong < 0 ? { ...build, skew: 0 } : build))
}

function buildOf(random: Random, i: number): Build {
  // Some clocks are a little wrong, a few are hours wrong, and a box without a battery believes that it is 1970.
  const kind = random.next()
  const skew =
    kind < 0.8
      ? random.between(-2000, 2000)
      : kind < 0.9
        ? random.between(FAR_BEHIND, -FAR_BEHIND)
        : kind < 0.97
          ? -random.between(0, 7_200_000)
          : -EPOCH
  return {
    name: `ap${i}`,
    labels: { site: i % 3 === 0 ? 'attic' : 'home' },
    skew: Math.round(skew),
    drift: random.between(-2e-4, 2e-4),
    rate: random.between(-2e-4, 2e-4),
    bytesPerMs: random.pick([2500, 5000, 12_500, 12_500]),
  }
}

function publish(random: Random, at: number, aps: number): Action {
  const replicas = random.pick([1, 1, 1, 2, 3, 'everywhere'] as const)
  const shape = {
    replicas,
    hasVolume: random.chance(0.15),
    label: random.chance(0.2) ? random.pick(['attic', 'home']) : undefined,
    isExclusive: replicas !== 'everywhere' && random.chance(0.35),
  }
  return { at, do: 'publish', host: random.int(aps), chute: random.int(CHUTES), shape }
}

function command(random: Random, at: number, aps: number): Action {
  const host = random.int(aps)
  const kind = random.pick(['publish', 'publish', 'stop', 'start', 'start', 'restart', 'remove'] as const)
  return kind === 'publish' ? publish(random, at, aps) : { at, do: kind, host, chute: random.int(CHUTES) }
}

function trouble(random: Random, at: number, aps: number): Action {
  const host = random.int(aps)
  const lasts = random.pick([random.between(200, 3000), random.between(2000, 12_000), random.between(10_000, STORM)])
  switch (random.int(16)) {
    case 0:
    case 1:
      return { at, do: 'kill', host, lasts }
    case 2:
    case 3:
      return { at, do: 'power-cut', host, lasts }
    case 4:
    case 5:
      return { at, do: 'pause', host, lasts: Math.min(lasts, 15_000) }
    case 6: {
      const hosts = random.shuffled(Array.from({ length: aps }, (_, i) => i)).slice(0, 1 + random.int(aps - 1))
      return { at, do: 'cut', hosts, way: random.pick(['both', 'both', 'out', 'in']), lasts }
    }
    case 7:
      return { at, do: 'cut', hosts: [host], way: random.pick(['both', 'out', 'in']), lasts }
    case 8:
      return { at, do: 'flap', host, period: random.between(200, 5000), lasts }
    case 9:
      return { at, do: 'loss', rate: random.pick([0.01, 0.1, 0.3]), lasts }
    case 10:
      return { at, do: 'disk-full', host, lasts }
    case 11:
      return random.chance(0.5)
        ? { at, do: 'engine-down', host, lasts }
        : { at, do: 'engine-fails', host, rate: random.pick([0.3, 1]), lasts }
    case 12:
      return random.chance(0.5) ? { at, do: 'leave', host, lasts } : { at, do: 'container-crash', host }
    case 13:
      return { at, do: random.pick(['drain', 'drain', 'undrain']), host: random.int(Math.min(2, aps)), of: host }
    case 14:
      return random.chance(0.5)
        ? { at, do: 'set-clock', host, skew: Math.round(random.between(-120_000, 120_000)) }
        : { at, do: 'forget', host: random.int(Math.min(2, aps)), of: host }
    default:
      return random.chance(0.5) ? { at, do: 'destroy', host } : { at, do: 'kill', host, lasts }
  }
}
