// Placement: from what is wanted, who claims what, and who is alive, to who should run each instance. Pure, and the same
// on every AP that knows the same; where two know different things both claim, and the order of claims settles it.
import { apId, equalBytes, hex, utf8 } from './bytes.js'
import type { Copy } from './chute.js'
import { hasFiles, isPinnedByData, type Resources, resourcesOf, runsOn, type ServiceSpec } from './deployment.js'
import { type Chute, type Claims, copiesOf, instanceOf } from './desired.js'
import { compareRecords } from './envelope.js'
import type { RecordOf } from './kinds.js'
import type { Member } from './membership.js'
import type { Neighbourhood, Neighbourhoods } from './neighbourhood.js'
import { score } from './rendezvous.js'
import type { RosterState } from './roster.js'
import { lackedSecret } from './secrets.js'

/** An AP as placement sees it. */
export interface Candidate {
  readonly member: Member
  readonly state: RosterState
  readonly beacon: RecordOf<'beacon'>['body'] | undefined
  /** Of one whose beacons are not heard here: what it said the last time that it was asked. Nothing is placed by it. */
  readonly glimpse?: RecordOf<'beacon'>['body'] | undefined
  /** True where the ledger says that it is dead or has left: what everyone knows, whoever hears its beacons. */
  readonly isGone?: boolean
}

/** What placement needs to know of a mesh that is divided. */
export interface Homes {
  readonly neighbourhoods: Neighbourhoods
  /** That of the AP that asks: of it alone it knows enough to rank anyone. */
  readonly own: Neighbourhood
  /** Since when nobody may hold an instance by what records say, in milliseconds since 1970. */
  since(chute: Chute, instance: string): number
}

/** Why a claim does not hold, or why none can be made. */
type Cause = 'new' | 'dead' | 'left' | 'forgotten' | 'drain' | 'labels' | 'engine' | 'lease' | 'cannot' | 'full'

/** The cause that claims give which move what could have stayed: see rebalance.ts. */
export const REBALANCED = 'rebalance'

export interface Placed {
  readonly chute: Chute
  readonly copy: Copy
  /** Hex of the instance's subject. */
  readonly instance: string
  readonly subject: Uint8Array
  /** The strongest claim by a member, whether it holds or not. */
  readonly claim: RecordOf<'claim'> | undefined
  /** The AP whose claim holds. */
  readonly holder: string | undefined
  /** Why there is no holder. */
  readonly cause: Cause | undefined
  /** Who may claim it, first rank first: empty while it has a holder, waits for data, or fits nowhere. */
  readonly ranks: readonly string[]
  /** Where it is another neighbourhood's turn to claim it: which one's. Who is to do it there is known there alone. */
  readonly elsewhere?: string | undefined
  /** When the turn of this AP's own neighbourhood comes, in milliseconds since 1970, where it has not come yet. */
  readonly opensAt?: number | undefined
  /** The AP that has the data of an instance that does not migrate, while that AP cannot run it. */
  readonly waitsFor: string | undefined
  /** Why each AP that may not claim it may not: for people. */
  readonly obstacles: ReadonlyMap<string, string>
}

/** A neighbourhood has its turn so long after the one before it, in milliseconds: longer than its first ranks need. */
const HOME_PATIENCE = 15_000

/** What an AP has left. */
export interface Free {
  cpu: number
  memory: number
  ports: Set<string>
  /** Instances of each chute, by hex of the chute's key. */
  chutes: Map<string, number>
}

/**
 * @param nowMs milliseconds since 1970, for the end of a `cannot`
 * @param homes undefined where all of the mesh is one neighbourhood
 * @returns one entry for each wanted instance, in the order of their subjects
 */
export function place(
  chutes: readonly Chute[],
  claims: Claims,
  candidates: ReadonlyMap<string, Candidate>,
  nowMs: number,
  homes?: Homes,
): Placed[] {
  const members = new Map([...candidates].map(([id, { member }]) => [id, member]))
  const free = new Map([...candidates].map(([id, candidate]) => [id, capacityOf(candidate)]))

  const wanted = chutes.flatMap((chute) =>
    copiesOf(chute, members).map((copy) => {
      const { subject, instance } = instanceOf(chute, copy)
      const known = claims.get(instance)
      const claim = known?.find(({ signer }) => members.has(apId(signer)))
      return { chute, copy, subject, instance, claim, known }
    }),
  )

  wanted.sort((a, b) => (a.instance < b.instance ? -1 : 1))

  // Claims that hold come first, the oldest first, so that a newcomer never pushes out what runs.
  const placed = new Map<string, Placed>()
  const byAge = [...wanted].sort((a, b) =>
    a.claim && b.claim ? compareRecords(a.claim, b.claim) : Number(!a.claim) - Number(!b.claim),
  )
  for (const { known, ...item } of byAge) {
    const base = { ...item, ranks: [], obstacles: new Map<string, string>() }
    if (item.claim === undefined) {
      const cause = known === undefined ? 'new' : 'forgotten'
      placed.set(item.instance, { ...base, holder: undefined, cause, waitsFor: undefined })
      continue
    }
    const holder = apId(item.claim.signer)
    const cause = whyNotHold(item.chute, item.instance, item.claim, candidates.get(holder)!, free.get(holder)!, nowMs)
    if (cause === undefined) take(free.get(holder)!, item.chute)
    const waits = cause !== undefined && cause !== 'cannot' && isPinnedByData(item.chute.spec)
    placed.set(item.instance, {
      ...base,
      holder: cause ? undefined : holder,
      cause,
      waitsFor: waits ? holder : undefined,
    })
  }

  const eligible = homes && new Eligible(homes.neighbourhoods.all, candidates)
  return wanted.map(({ instance, known }) => {
    const entry = placed.get(instance)!
    if (entry.holder !== undefined || entry.waitsFor !== undefined) return entry
    const turn = eligible === undefined ? OWN_TURN : turnOf(entry, eligible, homes!, nowMs)
    const obstacles = new Map<string, string>()
    const open = candidatesOf(entry, candidates, turn.among).filter(([id, candidate]) => {
      const obstacle = whyNotClaim(entry, candidate, free.get(id)!, nowMs)
      if (obstacle !== undefined) obstacles.set(id, obstacle)
      return obstacle === undefined
    })
    const favourite = favouriteOf(entry, known ?? [])
    const ranks = open
      .map(([id, candidate]) => ({
        id,
        crowd: free.get(id)!.chutes.get(hex(entry.chute.key)) ?? 0,
        score: score('placement 1', entry.subject, candidate.member.key, weightOf(candidate)),
      }))
      .sort(
        (a, b) =>
          Number(b.id === favourite) - Number(a.id === favourite) ||
          a.crowd - b.crowd ||
          b.score - a.score ||
          (a.id < b.id ? -1 : 1),
      )
      .map(({ id }) => id)
    if (ranks[0] !== undefined) take(free.get(ranks[0])!, entry.chute)
    const { among: _, ...when } = turn
    return { ...entry, ...when, ranks, obstacles }
  })
}

interface Turn extends Pick<Placed, 'elsewhere' | 'opensAt'> {
  /** Whom to rank, AP ids; undefined for everyone. */
  readonly among: readonly string[] | undefined
}

const OWN_TURN: Turn = { among: undefined }

/** Causes that beacons tell, and not the ledger: only the holder's neighbours know, and one of them takes over. */
const HEARD: ReadonlySet<Cause> = new Set(['engine', 'lease', 'cannot', 'full'])

function turnOf(
  { chute, copy, subject, instance, claim, cause }: Placed,
  eligible: Eligible,
  homes: Homes,
  nowMs: number,
): Turn {
  const { neighbourhoods, own } = homes
  if (typeof copy !== 'number') return OWN_TURN
  const neighbours = own.members.map(({ id }) => id)
  if (cause !== undefined && HEARD.has(cause) && neighbourhoods.of(apId(claim!.signer)) === own)
    return { among: neighbours }
  const order = eligible.ranked(chute, subject)
  const since = homes.since(chute, instance)
  const turn = Math.min(order.length - 1, Math.floor((nowMs - since) / HOME_PATIENCE))
  const mine = order.indexOf(own)
  const elsewhere = order[turn] === own ? undefined : order[turn]?.prefix
  if (mine < 0) return { elsewhere, among: [] }
  if (mine > turn) return { elsewhere, opensAt: since + mine * HOME_PATIENCE, among: [] }
  return { elsewhere, among: neighbours }
}

/** How many members of each neighbourhood may take a chute by what the ledger says; most chutes ask for the same, and for no secret. */
class Eligible {
  private readonly counts = new Map<string, { home: Neighbourhood; weight: number }[]>()

  constructor(
    private readonly all: readonly Neighbourhood[],
    private readonly candidates: ReadonlyMap<string, Candidate>,
  ) {}

  /** The neighbourhoods with any, in the order of their turns. */
  ranked(chute: Chute, subject: Uint8Array): Neighbourhood[] {
    return this.of(chute)
      .map(({ home, weight }) => ({ home, score: score('home 1', subject, utf8(home.prefix), weight) }))
      .sort((a, b) => b.score - a.score || (a.home.prefix < b.home.prefix ? -1 : 1))
      .map(({ home }) => home)
  }

  private of(chute: Chute): { home: Neighbourhood; weight: number }[] {
    const asked = JSON.stringify(chute.secrets === undefined ? chute.spec.constraints : hex(chute.key))
    let counts = this.counts.get(asked)
    if (counts === undefined) {
      const isEligible = ({ id }: { id: string }) => {
        const { member, isGone } = this.candidates.get(id)!
        const isMeant = unmetConstraint(chute, member) === undefined && lackedSecret(chute, member.key) === undefined
        return !isGone && !member.draining && isMeant
      }
      const all = this.all.map((home) => ({ home, weight: home.members.filter(isEligible).length }))
      counts = all.filter(({ weight }) => weight > 0)
      this.counts.set(asked, counts)
    }
    return counts
  }
}

function candidatesOf(
  { copy }: Placed,
  candidates: ReadonlyMap<string, Candidate>,
  among: readonly string[] | undefined,
): [string, Candidate][] {
  const ids = typeof copy === 'number' ? among : [apId(copy)]
  return ids === undefined ? [...candidates] : ids.map((id) => [id, candidates.get(id)!])
}

/**
 * The AP that ranks first whatever the scores say: what was moved for the sake of balance goes back to where it was well, and may
 * still run.
 */
function favouriteOf({ claim }: Placed, known: readonly RecordOf<'claim'>[]): string | undefined {
  if (claim?.body.cause !== REBALANCED) return undefined
  const { previous } = claim.body
  const of = known.find(({ hash }) => previous !== undefined && equalBytes(hash, previous))
  return of && apId(of.signer)
}

/**
 * True where `place` makes no difference between the candidates of two moments, of the same members. A `cannot` ends with
 * time, so where there is one nothing is sure.
 */
export const arePlacedAlike = (
  before: ReadonlyMap<string, Candidate>,
  after: ReadonlyMap<string, Candidate>,
): boolean => {
  for (const [id, { state, isGone, beacon: b }] of after) {
    const then = before.get(id)
    const a = then?.beacon
    if (then?.state !== state || then.isGone !== isGone || (a === undefined) !== (b === undefined)) return false
    if (a === undefined || b === undefined) continue
    if (a.cannot.length + b.cannot.length > 0) return false
    if (a === b) continue
    if (a.instances.some(isWaiting) || b.instances.some(isWaiting)) return false
    if (a.engine?.local !== b.engine?.local || a.engine?.cpu !== b.engine?.cpu || a.engine?.memory !== b.engine?.memory)
      return false
    if (a.engine?.platform !== b.engine?.platform) return false
  }
  return true
}

/** Nominal capacity only: a weight that followed live use would move work for ever. */
const weightOf = ({ beacon }: Candidate): number =>
  Math.min((beacon?.engine?.cpu ?? 0) / 1000, (beacon?.engine?.memory ?? 0) / 1024 ** 3)

export const capacityOf = ({ beacon }: Candidate): Free => ({
  cpu: beacon?.engine?.cpu ?? 0,
  memory: beacon?.engine?.memory ?? 0,
  ports: new Set(),
  chutes: new Map(),
})

export function take(free: Free, chute: Chute): void {
  const { cpu, memory, ports } = resourcesOf(chute.spec)
  free.cpu -= cpu
  free.memory -= memory
  for (const port of ports) free.ports.add(port)
  const key = hex(chute.key)
  free.chutes.set(key, (free.chutes.get(key) ?? 0) + 1)
}

export const fits = (chute: Chute, free: Free): boolean => whatLacks(resourcesOf(chute.spec), free) === undefined

function whatLacks(needs: Resources, free: Free): string | undefined {
  if (needs.cpu > free.cpu) return `needs ${needs.cpu / 1000} CPUs, ${Math.max(0, free.cpu) / 1000} are free`
  if (needs.memory > free.memory)
    return `needs ${mib(needs.memory)} MiB of memory, ${mib(Math.max(0, free.memory))} are free`
  const port = needs.ports.find((p) => free.ports.has(p))
  return port === undefined ? undefined : `port ${port} is taken by another chute`
}

const mib = (bytes: number): number => Math.round(bytes / 1024 ** 2)

const cannotOf = (beacon: Candidate['beacon'], chute: Chute, instance: string, nowMs: number) =>
  beacon?.cannot.find((c) => c.revision === chute.revision && c.until > nowMs && hex(c.instance) === instance)

const unmetConstraint = (chute: Chute, member: Member) =>
  chute.spec.constraints.find(({ label, value }) => member.labels[label] !== value)

const foreignPlatform = (chute: Chute, platform: string) =>
  chute.spec.services.find((service) => !runsOn(service, platform))

const platformsOf = ({ images }: ServiceSpec): string => images.map(({ platform }) => platform).join(' or ')

const isWaiting = ({ state }: { state: string }): boolean => state === 'waiting'

// Only the holder knows whether it has its lease.
const waitsForLease = (beacon: NonNullable<Candidate['beacon']>, instance: string, claim: RecordOf<'claim'>): boolean =>
  beacon.instances.some(
    (report) => isWaiting(report) && report.epoch >= claim.body.epoch && hex(report.instance) === instance,
  )

// A lease is worth nothing there, and secrets and configs would have to leave the machine.
const isUnguarded = (chute: Chute, beacon: NonNullable<Candidate['beacon']>): boolean =>
  (chute.spec.exclusive !== undefined || hasFiles(chute.spec)) && beacon.engine?.local !== true

// A suspect keeps what it has, and one whose beacon has not reached us yet is not judged by it.
function whyNotHold(
  chute: Chute,
  instance: string,
  claim: RecordOf<'claim'>,
  of: Candidate,
  free: Free,
  nowMs: number,
): Cause | undefined {
  if (of.state === 'dead' || of.state === 'left') return of.state
  if (of.member.draining) return 'drain'
  if (unmetConstraint(chute, of.member) !== undefined) return 'labels'
  if (of.beacon === undefined) return undefined
  if (of.beacon.engine === undefined || isUnguarded(chute, of.beacon)) return 'engine'
  if (cannotOf(of.beacon, chute, instance, nowMs) !== undefined) return 'cannot'
  if (waitsForLease(of.beacon, instance, claim)) return 'lease'
  return fits(chute, free) ? undefined : 'full'
}

/** Why an AP may not claim an instance that has no holder; undefined where it may. */
export function whyNotClaim(
  { chute, copy, instance }: Placed,
  of: Candidate,
  free: Free,
  nowMs: number,
): string | undefined {
  if (typeof copy !== 'number' && !equalBytes(copy, of.member.key)) return 'this copy is for another AP'
  if (of.state !== 'alive') return `is ${of.state}`
  if (of.member.draining) return 'is draining'
  const unmet = unmetConstraint(chute, of.member)
  if (unmet !== undefined) return `has no label ${unmet.label}=${unmet.value}`
  const engine = of.beacon?.engine
  if (of.beacon === undefined || engine === undefined) return 'has no container engine'
  if (isUnguarded(chute, of.beacon)) {
    return chute.spec.exclusive === undefined
      ? 'has its engine on another machine, or a node not run by root, and secrets and configs go to neither'
      : 'cannot stop what its engine runs by itself, which an exclusive chute needs'
  }
  const lacked = lackedSecret(chute, of.member.key)
  if (lacked !== undefined) return `waits for secret ${lacked}`
  const foreign = foreignPlatform(chute, engine.platform)
  if (foreign !== undefined) return `is ${engine.platform}, the image is ${platformsOf(foreign)}`
  const cannot = cannotOf(of.beacon, chute, instance, nowMs)
  if (cannot !== undefined) return `cannot: ${cannot.reason}`
  return whatLacks(resourcesOf(chute.spec), free)
}
