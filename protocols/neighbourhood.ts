// Neighbourhoods: the parts of a mesh within which beacons are heard, and who watches whom across them. A binary trie over
// positions that follow from members' keys and labels, so that all who know the same members divide them alike.
import { apId, compareBytes, concat, sha256, utf8 } from './bytes.js'
import { compareRecords } from './envelope.js'
import type { RecordOf } from './kinds.js'
import type { Ledger } from './ledger.js'
import type { Member, Membership } from './membership.js'
import { score, watcherCount } from './rendezvous.js'
import { remembered } from './view.js'

/** Sizes in members. Between `join` and `split` a part stays as it is, so that a member more or less changes nothing. */
export interface Thresholds {
  /** A part with more is divided. */
  readonly split: number
  /** A part with fewer is not. */
  readonly join: number
  /** Half of a divided part with fewer is no neighbourhood: the next one takes it in. Its few members could not watch and replace each other. */
  readonly least: number
}

export const THRESHOLDS: Thresholds = { split: 64, join: 24, least: 8 }

/** A position has 48 bits, which a number holds exactly. Members of one site share the first half. */
const BITS = 48
const SITE_BITS = 24

/** Watchers from the own neighbourhood, where there are others: the rest lives through the loss of a whole site. */
const INSIDE = 3
/**
 * Watchers are spread over sites and racks among so many of the best-ranked for each one wanted. Among all, the only AP of
 * a second rack would have to watch everyone.
 */
const SHORTLIST = 3
/** So often a watcher from outside is drawn by lot. Where little is outside that may fail, and the first ones there are taken. */
const DRAWS = 32

type Neighbour = Pick<Member, 'id' | 'key' | 'labels'>

export interface Neighbourhood {
  /** The first bits of its positions, as digits 0 and 1; empty for the whole mesh. */
  readonly prefix: string
  /** In the order of positions. */
  readonly members: readonly Neighbour[]
}

/** Which parts were divided the last time that it was written down, by prefix. */
export type Divisions = ReadonlyMap<string, boolean>

/** A part of the mesh that is divided, or a neighbourhood. */
type Part = Neighbourhood | { readonly size: number; readonly halves: readonly [Part, Part] }

const sizeOf = (part: Part): number => ('halves' in part ? part.size : part.members.length)

export class Neighbourhoods {
  /** In the order of positions; at least one. */
  readonly all: readonly Neighbourhood[]
  private readonly sorted: readonly Neighbour[]
  private readonly positions: readonly number[]
  private readonly root: Part
  private readonly homes = new Map<string, Neighbourhood>()
  private readonly byId = new Map<string, Neighbour>()
  private readonly watchers = new Map<string, readonly string[]>()
  private readonly watched = new Map<string, readonly string[]>()
  /** Prefixes of all parts that have too many members. */
  private readonly tooBig: string[] = []

  constructor(
    members: ReadonlyMap<string, Neighbour>,
    private readonly divisions: Divisions,
    private readonly thresholds: Thresholds = THRESHOLDS,
  ) {
    const placed = [...members.values()].map((member) => ({ member, at: positionOf(member) }))
    placed.sort((a, b) => a.at - b.at || compareBytes(a.member.key, b.member.key))
    this.sorted = placed.map(({ member }) => member)
    this.positions = placed.map(({ at }) => at)
    for (const member of this.sorted) this.byId.set(member.id, member)
    this.root = this.divide('', 0, this.sorted.length, 0, this.sorted.length)
    this.all = leavesOf(this.root)
    for (const home of this.all) for (const { id } of home.members) this.homes.set(id, home)
  }

  /** The neighbourhood of a member. */
  of(ap: string): Neighbourhood | undefined {
    return this.homes.get(ap)
  }

  /**
   * @param from, to which of the sorted members have the prefix
   * @param first, end which ones belong to the part, those that it takes in included
   */
  private divide(prefix: string, from: number, to: number, first: number, end: number): Part {
    if (!this.isDivided(prefix, to - from)) return { prefix, members: this.sorted.slice(first, end) }
    const middle = lowerBound(this.positions, lowestOf(`${prefix}1`), from, to)
    const { least } = this.thresholds
    if (middle - from < least) return this.divide(`${prefix}1`, middle, to, first, end)
    if (to - middle < least) return this.divide(`${prefix}0`, from, middle, first, end)
    const halves = [
      this.divide(`${prefix}0`, from, middle, first, middle),
      this.divide(`${prefix}1`, middle, to, middle, end),
    ] as const
    return { size: end - first, halves }
  }

  private isDivided(prefix: string, size: number): boolean {
    const { split, join } = this.thresholds
    if (prefix.length === BITS || size < join) return false
    if (size > split) this.tooBig.push(prefix)
    return size > split || this.divisions.get(prefix) === true
  }

  /**
   * What `self` should write down: parts that are too big and not known as divided, or the other way round. One member writes
   * it, the first by rank that is alive, and nothing depends on it being quick.
   */
  divisionsToSign(self: string, isAlive: (ap: string) => boolean): { prefix: string; split: boolean }[] {
    const due = this.tooBig.filter((prefix) => this.divisions.get(prefix) !== true)
    const changes = due.map((prefix) => ({ prefix, split: true }))
    for (const [prefix, isSplit] of this.divisions) {
      if (isSplit && this.within(prefix).length < this.thresholds.join) changes.push({ prefix, split: false })
    }
    return changes.filter(({ prefix }) => {
      // Where nobody is left in it, the first of all does.
      const [inside, all] = [this.within(prefix), this.sorted].map((part) => part.filter(({ id }) => isAlive(id)))
      return ranked('settings 1', writePrefix(prefix), inside!.length > 0 ? inside! : all!)[0]?.id === self
    })
  }

  private within(prefix: string): readonly Neighbour[] {
    const from = lowerBound(this.positions, lowestOf(prefix))
    const to = lowerBound(this.positions, lowestOf(prefix) + 2 ** (BITS - prefix.length))
    return this.sorted.slice(from, to)
  }

  /** The watchers of a member, AP ids: min(5, members − 1) of the others. */
  watchersOf(ap: string): readonly string[] {
    let watchers = this.watchers.get(ap)
    if (watchers === undefined) {
      watchers = this.chooseWatchers(ap)
      this.watchers.set(ap, watchers)
    }
    return watchers
  }

  private chooseWatchers(ap: string): string[] {
    const [of, home] = [this.byId.get(ap), this.of(ap)]
    if (of === undefined || home === undefined) return []
    const outside: string[] = []
    for (const [other, count] of this.outsideOf(of, home)) {
      const best = ranked('watcher 1', of.key, other.members).slice(0, count)
      outside.push(...best.map(({ id }) => id))
    }
    const wanted = watcherCount(this.sorted.length) - outside.length
    const neighbours = home.members.filter(({ id }) => id !== ap)
    const shortlist = ranked('watcher 1', of.key, neighbours).slice(0, wanted * SHORTLIST)
    return [...spread(of, shortlist, wanted).map(({ id }) => id), ...outside]
  }

  /** How many watchers of an AP come from which other neighbourhoods. */
  private outsideOf({ key }: Neighbour, home: Neighbourhood): Map<Neighbourhood, number> {
    const drawn = new Map<Neighbourhood, number>()
    if (this.all.length === 1) return drawn
    let wanted = watcherCount(this.sorted.length) - Math.min(INSIDE, home.members.length - 1)
    const take = (other: Neighbourhood, most: number) => {
      const count = drawn.get(other) ?? 0
      const more = other === home ? 0 : Math.min(most, other.members.length - count)
      if (more > 0) drawn.set(other, count + more)
      wanted -= more
    }
    for (let draw = 0; draw < DRAWS && wanted > 0; draw++) take(this.drawNeighbourhood(key, draw), 1)
    for (const other of this.all) if (wanted > 0) take(other, wanted)
    return drawn
  }

  /**
   * One neighbourhood, with a chance in proportion to its members. Each part draws anew between its halves, so that a member
   * more changes little.
   */
  private drawNeighbourhood(key: Uint8Array, draw: number): Neighbourhood {
    let part = this.root
    for (let depth = 0; 'halves' in part; depth++) {
      const [left, right] = part.halves
      part = lotOf(key, draw, depth) * part.size < sizeOf(left) ? left : right
    }
    return part
  }

  /** Whom a member watches, AP ids. Takes a few hashes for each member of the mesh, and remembers. */
  watchedBy(ap: string): readonly string[] {
    let watched = this.watched.get(ap)
    if (watched === undefined) {
      watched = this.findWatched(ap)
      this.watched.set(ap, watched)
    }
    return watched
  }

  private findWatched(ap: string): string[] {
    const own = this.of(ap)
    if (own === undefined) return []
    const near = own.members.filter(({ id }) => this.watchersOf(id).includes(ap)).map(({ id }) => id)
    const far: string[] = []
    for (const home of this.all) {
      if (home === own) continue
      for (const of of home.members) {
        const count = this.outsideOf(of, home).get(own)
        if (count === undefined) continue
        const best = ranked('watcher 1', of.key, own.members).slice(0, count)
        if (best.some(({ id }) => id === ap)) far.push(of.id)
      }
    }
    return [...near, ...far]
  }
}

const leavesOf = (part: Part): Neighbourhood[] => ('halves' in part ? part.halves.flatMap(leavesOf) : [part])

const made = new WeakMap<
  ReadonlyMap<string, Neighbour>,
  { divisions: Divisions; thresholds: Thresholds; neighbourhoods: Neighbourhoods }
>()

/** The neighbourhoods of these members: the same object for the very same members and divisions. */
export function neighbourhoodsOf(
  members: ReadonlyMap<string, Neighbour>,
  divisions: Divisions,
  thresholds: Thresholds = THRESHOLDS,
): Neighbourhoods {
  const last = made.get(members)
  if (last?.divisions === divisions && last.thresholds === thresholds) return last.neighbourhoods
  const neighbourhoods = new Neighbourhoods(members, divisions, thresholds)
  made.set(members, { divisions, thresholds, neighbourhoods })
  return neighbourhoods
}

/** What members wrote down about parts of the mesh: the latest of each prefix. */
export function divisionsOf(ledger: Ledger, { members }: Membership, nowMs: number): Divisions {
  const inputs = [members, ledger.stamp('settings', nowMs)]
  return remembered(ledger, 'divisions', inputs, () => {
    const latest = new Map<string, RecordOf<'settings'>>()
    for (const record of ledger.effective('settings', nowMs)) {
      if (!members.has(apId(record.signer))) continue
      const prefix = readPrefix(record.subject)
      const before = latest.get(prefix)
      if (before === undefined || compareRecords(before, record) < 0) latest.set(prefix, record)
    }
    return new Map([...latest].map(([prefix, { body }]) => [prefix, body.split]))
  })
}

/** The members with the best scores for a key, best first. */
function ranked(domain: string, key: Uint8Array, members: readonly Neighbour[]): Neighbour[] {
  return members
    .map((member) => ({ member, score: score(domain, key, member.key, 1) }))
    .sort((a, b) => b.score - a.score || compareBytes(a.member.key, b.member.key))
    .map(({ member }) => member)
}

/** The first `count` members, but such as share site and rack with fewer of those before them, or with the AP itself, come first. */
function spread(of: Neighbour, members: readonly Neighbour[], count: number): Neighbour[] {
  const left = [...members]
  const picked: Neighbour[] = []
  const sharing = ({ labels: { site, rack } }: Neighbour) => {
    const sameSite = [of, ...picked].filter(({ labels }) => labels.site === site)
    return sameSite.length * (count + 2) + sameSite.filter(({ labels }) => labels.rack === rack).length
  }
  while (picked.length < count && left.length > 0) {
    const least = left.reduce((best, member) => (sharing(member) < sharing(best) ? member : best))
    picked.push(...left.splice(left.indexOf(least), 1))
  }
  return picked
}

// Keys are the same objects for as long as their records are held, and the same hashes of them are asked for at each change.
const positions = new WeakMap<Uint8Array, { site: string | undefined; at: number }>()

function positionOf({ key, labels: { site } }: Neighbour): number {
  const known = positions.get(key)
  if (known !== undefined && known.site === site) return known.at
  const own = firstBits(sha256(utf8('dropmesh position 1\0'), key))
  const at = site === undefined ? own : startOf(site) + Math.floor(own / 2 ** SITE_BITS)
  positions.set(key, { site, at })
  return at
}

/** The lowest position in a site. */
function startOf(site: string): number {
  const bits = firstBits(sha256(utf8('dropmesh site 1\0'), utf8(site)))
  return bits - (bits % 2 ** (BITS - SITE_BITS))
}

const firstBits = (hash: Uint8Array): number => Buffer.from(hash.buffer, hash.byteOffset).readUIntBE(0, BITS / 8)

/** The lowest position with a prefix. */
const lowestOf = (prefix: string): number =>
  prefix === '' ? 0 : Number.parseInt(prefix, 2) * 2 ** (BITS - prefix.length)

function lowerBound(sorted: readonly number[], value: number, from = 0, to = sorted.length): number {
  let [low, high] = [from, to]
  while (low < high) {
    const middle = (low + high) >>> 1
    if (sorted[middle]! < value) low = middle + 1
    else high = middle
  }
  return low
}

const lots = new WeakMap<Uint8Array, Map<number, DataView>>()
const LOTS_A_HASH = 8

/** A number in [0, 1) that depends on the key and on the two numbers alone. */
function lotOf(key: Uint8Array, draw: number, depth: number): number {
  const part = Math.floor(depth / LOTS_A_HASH)
  const ofKey = lots.get(key) ?? new Map<number, DataView>()
  lots.set(key, ofKey)
  let lot = ofKey.get(draw * BITS + part)
  if (lot === undefined) {
    const hash = sha256(utf8('dropmesh lot 1\0'), key, Uint8Array.of(draw, part))
    lot = new DataView(hash.buffer, hash.byteOffset)
    ofKey.set(draw * BITS + part, lot)
  }
  return lot.getUint32((depth % LOTS_A_HASH) * 4) / 2 ** 32
}

/** The subject of a record about a part of the mesh: how many bits the prefix has, and the bits, filled up with zeros. */
export function writePrefix(prefix: string): Uint8Array {
  const bits = Buffer.alloc(BITS / 8)
  bits.writeUIntBE(lowestOf(prefix), 0, BITS / 8)
  return concat(Uint8Array.of(prefix.length), bits)
}

const readPrefix = (subject: Uint8Array): string =>
  firstBits(subject.subarray(1)).toString(2).padStart(BITS, '0').slice(0, subject[0])

/** True for what `writePrefix` makes of a part that can be divided. */
export const isPrefix = (subject: Uint8Array): boolean =>
  subject.length === 1 + BITS / 8 && subject[0]! < BITS && compareBytes(writePrefix(readPrefix(subject)), subject) === 0
