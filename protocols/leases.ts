// Leases: why an exclusive instance never runs twice. Voters promise, holders count, and no clock is shared: each side
// measures durations on its own one, which must go on while the machine sleeps. Pure: what must be on disk before an
// answer goes out, and whom to ask, come back as values.
import { sha256, utf8 } from './bytes.js'
import { chuteOfInstance } from './chute.js'
import { beginOf, endOf } from './epochs.js'
import { majority } from './rendezvous.js'
import { isSameList } from './view.js'

/** Durations in milliseconds. */
export interface LeaseTiming {
  /** For so long after a grant a voter grants nothing to anyone else; so long it grants nothing after a start. */
  voter: number
  /** For so long after the sending of a request that was granted the holder may run. */
  holder: number
  /** How long it may take until what ran is gone, once the holder's time is over. */
  kill: number
  /** How often a holder asks each voter again. Three may be lost in a row. */
  renew: number
  /** How far the rate of a clock may be from the true one: 0.01 is a hundred times what a bad crystal has. */
  drift: number
}

export const LEASE: LeaseTiming = { voter: 10_000, holder: 7500, kill: 2000, renew: 2000, drift: 0.01 }

/**
 * What the timing must obey: even where the holder's clock is the slowest and the voter's the fastest, a holder's copy is
 * gone before a voter grants anew. A request is granted after it was sent, so the voter's time begins after the holder's.
 */
export const isSafe = ({ voter, holder, kill, drift }: LeaseTiming): boolean =>
  holder / (1 - drift) + kill <= voter / (1 + drift)

/** `instance` is the hex of its subject; `generation` that of the chute's voters. */
export interface LeaseRequest {
  readonly instance: string
  readonly generation: number
  readonly epoch: number
}

/**
 * - `unknown`: the voter does not know the chute, or that generation of its voters (yet, or any more).
 * - `quiet`: it has just started, or just learnt that it votes, and does not know what was promised before.
 * - `held`: it promised another AP, and that promise is not over.
 * - `superseded`: it promised this epoch or a later one to another AP, or this one was given back.
 */
type Refusal = 'unknown' | 'quiet' | 'held' | 'superseded'

export type LeaseAnswer =
  | { readonly granted: true }
  | {
      readonly granted: false
      readonly reason: Refusal
      /** The highest epoch it knows of. */
      readonly epoch: number
      /** After so many milliseconds it may answer otherwise. */
      readonly wait: number
    }

/** What a voter keeps on disk of each instance. */
export interface LeasePromise {
  readonly epoch: number
  /** AP id. */
  readonly holder: string
}

interface Promised extends LeasePromise {
  /** On this voter's clock; minus infinity where nobody holds by it. */
  at: number
  /** The holder gave this epoch back: it is over for everyone. */
  isOver: boolean
  isOnDisk: boolean
}

/** What a voter is to do with a request. */
export interface Verdict {
  readonly answer: LeaseAnswer
  /** Must be on disk before the answer goes out; tell `saved` then. */
  readonly save: LeasePromise | undefined
}

/** The voting of one AP. */
export class Voter {
  private readonly promises = new Map<string, Promised>()
  /** By hex of the chute's key. */
  private readonly chutes = new Map<string, { generation: number; voters: readonly string[]; since: number }>()
  /** The generation a voter has signed for, by hex of the chute's key: it serves none before it any more. */
  private readonly signedFor = new Map<string, number>()

  /** @param saved what it promised before, by instance @param signed the generations it signed for, by chute */
  constructor(
    private readonly self: string,
    private readonly startedAt: number,
    saved: Iterable<readonly [string, LeasePromise]> = [],
    signed: Iterable<readonly [string, number]> = [],
    private readonly timing: LeaseTiming = LEASE,
  ) {
    for (const [instance, promise] of saved) {
      // When it was made is not known; but it is over when the quiet time after the start is.
      this.promises.set(instance, { ...promise, at: Number.NEGATIVE_INFINITY, isOver: false, isOnDisk: true })
    }
    for (const [chute, generation] of signed) this.signedFor.set(chute, generation)
  }

  /**
   * Tells who votes on a chute now, by AP id. What other voters granted may be in use for one more lease: those of an earlier
   * generation, and of this one, where two admins have forced some at one time.
   */
  learn(chute: string, generation: number, voters: readonly string[], now: number): void {
    const before = this.chutes.get(chute)
    if (before?.generation === generation && isSameList(before.voters, voters)) return
    // Before generation 0 there was none that could have granted.
    const since = generation === 0 && before === undefined ? Number.NEGATIVE_INFINITY : now
    this.chutes.set(chute, { generation, voters, since })
  }

  /** True where it may sign for the voters of this generation: once, and that must be on disk before the record is. */
  sign(chute: string, generation: number): boolean {
    if (generation <= (this.signedFor.get(chute) ?? 0)) return false
    this.signedFor.set(chute, generation)
    return true
  }

  /**
   * @param from AP id of who asks for itself
   * @param claimed the highest epoch that another AP is known to have claimed: it must not be used twice
   * @param highest that there can be by now: who was granted a higher one would keep out everybody after it
   */
  request(
    from: string,
    request: LeaseRequest,
    claimed: number,
    now: number,
    highest = endOf(request.generation) - 1,
  ): Verdict {
    const { instance, generation, epoch } = request
    const { voter } = this.timing
    const promised = this.promises.get(instance)
    const taken = Math.max(claimed <= highest ? claimed : 0, beginOf(generation))
    const known = Math.max(promised?.epoch ?? 0, taken)
    const refuse = (reason: Refusal, wait = 0): Verdict => ({
      answer: { granted: false, reason, epoch: known, wait: Math.max(0, Math.ceil(wait)) },
      save: undefined,
    })
    const chute = this.chutes.get(chuteOfInstance(instance))
    if (chute === undefined || !chute.voters.includes(this.self) || chute.generation !== generation)
      return refuse('unknown')
    if ((this.signedFor.get(chuteOfInstance(instance)) ?? 0) > generation) return refuse('unknown')
    const quietUntil = Math.max(this.startedAt, chute.since) + voter
    if (now < quietUntil) return refuse('quiet', quietUntil - now)
    if (epoch <= taken || epoch > highest) return refuse('superseded')
    if (promised !== undefined) {
      const isOwn = promised.holder === from
      if (epoch < promised.epoch || (epoch === promised.epoch && (!isOwn || promised.isOver))) {
        return refuse('superseded', isOwn ? 0 : promised.at + voter - now)
      }
      if (!isOwn && now < promised.at + voter) return refuse('held', promised.at + voter - now)
      if (epoch === promised.epoch) {
        promised.at = now
        return { answer: { granted: true }, save: promised.isOnDisk ? undefined : { epoch, holder: from } }
      }
    }
    this.promises.set(instance, { epoch, holder: from, at: now, isOver: false, isOnDisk: false })
    return { answer: { granted: true }, save: { epoch, holder: from } }
  }

  /** Nobody will ask for a lease of this chute again. */
  forget(chute: string): void {
    this.chutes.delete(chute)
    this.signedFor.delete(chute)
    for (const instance of this.promises.keys()) if (chuteOfInstance(instance) === chute) this.promises.delete(instance)
  }

  /** What a verdict asked to be saved is on disk. */
  saved(instance: string, { epoch, holder }: LeasePromise): void {
    const promised = this.promises.get(instance)
    if (promised?.epoch === epoch && promised.holder === holder) promised.isOnDisk = true
  }

  /** The holder gave an epoch back: nothing of it runs there any more, and it will never ask for it again. */
  release(from: string, instance: string, epoch: number): void {
    const promised = this.promises.get(instance)
    if (promised?.holder !== from || promised.epoch > epoch) return
    promised.at = Number.NEGATIVE_INFINITY
    promised.isOver = true
  }
}

/** An instance that this AP should hold, or whose turn to take it is its own. */
export interface Seat {
  readonly instance: string
  readonly generation: number
  /** AP ids. */
  readonly voters: readonly string[]
  /** The least epoch to ask for: that of this AP's own claim where it is the strongest, else one more than the highest. */
  readonly epoch: number
  /** The highest that there can be by now, whatever voters say. */
  readonly highest?: number
}

export type LeaseEffect =
  /** Ask a voter, and tell `answered`. */
  | { readonly do: 'ask'; readonly voter: string; readonly request: LeaseRequest; readonly sentAt: number }
  /** Write down that this epoch is given back, and then tell the voters. */
  | { readonly do: 'release'; readonly voters: readonly string[]; readonly instance: string; readonly epoch: number }
  | { readonly do: 'tell'; readonly instance: string; readonly epoch: number; readonly what: 'taken' | 'lost' }

/** How a lease stands, for people. */
export interface Standing {
  readonly epoch: number
  readonly voters: number
  readonly needed: number
  /** How many have granted lately, and how many have answered at all. */
  readonly granted: number
  readonly reached: number
  /** Milliseconds until one that keeps it for another AP, or keeps quiet, may grant. */
  readonly wait: number
}

/** One instance whose lease this AP has or wants. */
class Holder {
  epoch: number
  /** Sending times of granted requests of this epoch, by voter. */
  private readonly grants = new Map<string, number>()
  private readonly answers = new Map<string, { at: number; answer: LeaseAnswer }>()
  private readonly nextAsk = new Map<string, number>()
  /** Since when some voters wait for it in vain: it had the first grant, or lost the lease. */
  private since: number
  /** It lets others try until then. */
  private restsUntil = Number.NEGATIVE_INFINITY
  /** How often in a row it had some voters, and no majority. */
  private rounds = 0
  wasHeld = false
  isWanted = true

  constructor(
    public seat: Seat,
    now: number,
    private readonly timing: LeaseTiming,
  ) {
    this.epoch = seat.epoch
    this.since = now
  }

  /** Until when this AP may run it, on its own clock. */
  get until(): number {
    const needed = majority(this.seat.voters.length)
    const sent = [...this.grants.values()].sort((a, b) => b - a)[needed - 1]
    return sent === undefined ? Number.NEGATIVE_INFINITY : sent + this.timing.holder
  }

  take(seat: Seat): void {
    if (seat.generation !== this.seat.generation || !isSameList(seat.voters, this.seat.voters)) this.begin(this.epoch)
    this.seat = seat
    if (seat.epoch > this.epoch) this.begin(seat.epoch)
  }

  private begin(epoch: number): void {
    this.epoch = epoch
    this.grants.clear()
    this.answers.clear()
    this.nextAsk.clear()
  }

  answered(voter: string, request: LeaseRequest, sentAt: number, answer: LeaseAnswer | undefined, now: number): void {
    const { epoch, generation } = request
    if (epoch !== this.epoch || generation !== this.seat.generation || !this.seat.voters.includes(voter)) return
    if (answer === undefined) return
    this.answers.set(voter, { at: now, answer })
    if (answer.granted) {
      if (this.grants.size === 0) this.since = now
      this.grants.set(voter, Math.max(sentAt, this.grants.get(voter) ?? sentAt))
    } else {
      // Soon, since the one it is kept for may give it back, and news may be on its way.
      const soon = this.timing.renew / 4
      this.nextAsk.set(voter, now + (answer.wait > 0 ? Math.min(soon, answer.wait) : soon))
    }
  }

  tick(self: string, now: number, runs: boolean): LeaseEffect[] {
    const { instance } = this.seat
    const effects: LeaseEffect[] = []
    const isHeld = now < this.until
    if (isHeld !== this.wasHeld) {
      this.wasHeld = isHeld
      this.since = now
      if (isHeld) this.rounds = 0
      effects.push({ do: 'tell', instance, epoch: this.epoch, what: isHeld ? 'taken' : 'lost' })
    }
    if (!isHeld) effects.push(...this.reconsider(self, now, runs))
    if (now >= this.restsUntil) effects.push(...this.ask(now))
    return effects
  }

  private reconsider(self: string, now: number, runs: boolean): LeaseEffect[] {
    const { voters, instance } = this.seat
    const highest = this.seat.highest ?? endOf(this.seat.generation) - 1
    const beaten = [...this.answers].flatMap(([voter, { answer }]) =>
      !answer.granted && answer.reason === 'superseded'
        ? [{ voter, epoch: answer.epoch < highest ? answer.epoch : this.epoch }]
        : [],
    )
    if (voters.length - beaten.length < majority(voters.length)) {
      this.begin(Math.max(this.epoch, ...beaten.map(({ epoch }) => epoch)) + 1)
      return []
    }
    // Several APs that have some voters each, and ask on and on, would keep each other out for ever: who has no majority
    // after a round gives back what it has, and lets others try, the longer the more often this happens.
    if (this.grants.size === 0 || now < this.since + this.timing.renew) return []
    const released = this.epoch
    this.rounds++
    const spread = 2 ** Math.min(this.rounds, MOST_ROUNDS)
    const rest = this.timing.renew * (0.25 + spread * shareOf(self, instance, released))
    // A copy of an earlier life of this node may run on under its watchdog: then the promises must end by themselves.
    this.begin(runs ? released : Math.max(released, ...beaten.map(({ epoch }) => epoch)) + 1)
    this.restsUntil = now + rest + (runs ? this.timing.voter : 0)
    return runs ? [] : [{ do: 'release', voters, instance, epoch: released }]
  }

  private ask(now: number): LeaseEffect[] {
    const { instance, generation, voters } = this.seat
    const due = voters.filter((voter) => now >= (this.nextAsk.get(voter) ?? now))
    const request = { instance, generation, epoch: this.epoch }
    // One that does not answer is asked again in time for its answer to count.
    for (const voter of due) this.nextAsk.set(voter, now + this.timing.renew)
    return due.map((voter) => ({ do: 'ask', voter, request, sentAt: now }))
  }

  standing(now: number): Standing {
    const { renew } = this.timing
    const lately = [...this.answers.values()].filter(({ at }) => now - at < 2 * renew)
    const waits = lately.flatMap(({ at, answer }) => (answer.granted ? [] : [at + answer.wait - now]))
    return {
      epoch: this.epoch,
      voters: this.seat.voters.length,
      needed: majority(this.seat.voters.length),
      granted: lately.filter(({ answer }) => answer.granted).length,
      reached: lately.length,
      wait: Math.max(0, ...waits),
    }
  }
}

/** So many rounds in vain, and the rest grows no longer: ten APs then find their turn in half a minute. */
const MOST_ROUNDS = 4

/** A number in [0, 1) that differs from AP to AP and from epoch to epoch. */
const shareOf = (self: string, instance: string, epoch: number): number =>
  sha256(utf8(`dropmesh rest 1\0${self} ${instance} ${epoch}`))[0]! / 256

/** The leases of one AP. What it may run is what `holds`. */
export class Holders {
  private readonly holders = new Map<string, Holder>()
  private readonly released: Map<string, number>

  /** @param released the highest epoch it has given back, by instance: it never asks for that one or a lower one again */
  constructor(
    private readonly self: string,
    released: Iterable<readonly [string, number]> = [],
    private readonly timing: LeaseTiming = LEASE,
  ) {
    this.released = new Map(released)
  }

  /** Sets what this AP should hold or take. What is not among it is given up as soon as nothing of it runs here. */
  want(seats: readonly Seat[], now: number): void {
    const wanted = new Set(seats.map(({ instance }) => instance))
    for (const [instance, holder] of this.holders) holder.isWanted = wanted.has(instance)
    for (const seat of seats) {
      const over = Math.max(this.released.get(seat.instance) ?? 0, beginOf(seat.generation))
      const asked = seat.epoch < endOf(seat.generation) ? seat.epoch : 0
      const least = { ...seat, epoch: Math.max(asked, over + 1) }
      const holder = this.holders.get(seat.instance)
      if (holder === undefined) this.holders.set(seat.instance, new Holder(least, now, this.timing))
      else holder.take(least)
    }
  }

  /**
   * Call it several times within `renew`.
   * @param runs whether anything of an instance runs here, or may come to run by what was asked of the engine
   * @param ends whether it is being stopped
   */
  tick(now: number, runs: (instance: string) => boolean, ends: (instance: string) => boolean): LeaseEffect[] {
    const effects: LeaseEffect[] = []
    for (const [instance, holder] of this.holders) {
      const isRunning = runs(instance)
      // What is being stopped keeps its lease to the end, but never gets it anew. What nobody can stop (the engine is gone)
      // does not keep it: others would wait for ever, and the watchdog ends it in time.
      if (holder.isWanted || (now < holder.until && isRunning && ends(instance)))
        effects.push(...holder.tick(this.self, now, isRunning))
      else if (!isRunning) {
        // Whoever comes next need not wait for the end of this lease.
        effects.push({ do: 'release', voters: holder.seat.voters, instance, epoch: holder.epoch })
        this.holders.delete(instance)
      }
    }
    for (const effect of effects) if (effect.do === 'release') this.released.set(effect.instance, effect.epoch)
    return effects
  }

  /** @param answer undefined where the voter did not answer */
  answered(voter: string, request: LeaseRequest, sentAt: number, answer: LeaseAnswer | undefined, now: number): void {
    this.holders.get(request.instance)?.answered(voter, request, sentAt, answer, now)
  }

  /** Until when this AP may run an instance, on its own clock; minus infinity where it may not. */
  until(instance: string): number {
    return this.holders.get(instance)?.until ?? Number.NEGATIVE_INFINITY
  }

  /** The epoch by which this AP may run an instance now. */
  holds(instance: string, now: number): number | undefined {
    const holder = this.holders.get(instance)
    return holder !== undefined && now < holder.until ? holder.epoch : undefined
  }

  standing(instance: string, now: number): Standing | undefined {
    return this.holders.get(instance)?.standing(now)
  }
}
