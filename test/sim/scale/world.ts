// A mesh in which nothing but detection goes on: rosters, and between them pulses, probes, beacons and statements over links
// with latency and loss. Does what node/mesh/liveness.ts, node/mesh/gossip.ts and node/ap.ts do with the same deadlines, in
// rows of numbers: where those change, this file must follow. Who gets to know what of it, the `Watch` that is given decides.
import { BEACON_MIN, beaconPause, TICK } from '../../../protocols/pace.js'
import { type RosterState, TIMING } from '../../../protocols/roster.js'
import { Random } from '../random.js'
import { type Alive, type Beacon, Detector, type Effect, type Members, type Statement } from './detector.js'
import { Queue } from './queue.js'
import type { Sizes } from './sizes.js'

/** As in node/mesh/liveness.ts and node/ap.ts, in milliseconds. */
const REPEAT_PULSE = 200
const PROBE_DEADLINE = 700
const INDIRECT_DEADLINE = 2 * PROBE_DEADLINE
const ENOUGH_FAILED = 2
const REPEAT_PROBE = 100
const HEAD_START = 100
const INDIRECT_HEAD_START = 400
const PROBE_HEAD_START = 100
const REFRESH_AFTER = 10
const RENEW_KEYS = 15_000
const SYNC_EVERY = 30_000
const SHOW_LIFE_EVERY = 5000
/** As in node/mesh/host.ts, and gossipsub's own. */
const DEGREE = 8
const LEAST_DEGREE = 6
const HEARTBEAT = 1000
const LAZY = 6
/** A message is told of in so many heartbeats. */
const TOLD = 3
/** Round trips until a new process is connected and has keys: TCP, noise, identify, the keys. */
const HANDSHAKES = 4
/** Linux's least timeout of a retransmission. */
const RTO_MIN = 200
/** Gossip of the whole mesh comes to so many of a neighbourhood from outside. */
const INTO_OTHERS = 3
/** What is still not there by then counts as if it were, in milliseconds: nothing waits for it any more. */
const LONGEST_WAIT = 15_000
/** What to check, verify and hand on takes in one hop of gossip. */
const HANDLING = 3

/** Events. First come timers of one life of an AP, then other timers, then what comes to it from elsewhere. */
const TICKS = 0
const PULSES = 1
const REPEATS = 2
const HEARTBEATS = 3
const REFRESHES = 4
const BEACON_DUE = 5
const LINKED = 6
const LIFE_DUE = 7
const LAST_OF_A_LIFE = LIFE_DUE
const PROBE_WAITED = 8
const ASK_AGAIN = 9
const ASK_BY_STREAM = 10
const ASK_ENDS = 11
const TROUBLE = 12
const LAST_TIMER = TROUBLE
const PULSE_IN = 13
const STREAMED_PULSE_IN = 14
const ASK_IN = 15
const STREAMED_ASK_IN = 16
const ANSWER_IN = 17
const REFUSAL_IN = 18
const MESSAGE_IN = 19
const LOST = 20

const MOST_WATCHERS = 5
/** Answers of a pulse that may be under way at once to one AP. */
const RING = 8
/** What comes of a question, where it is no sequence: nothing, the word of its host, or of another one that it was not reached. */
const SILENT = -1
const REFUSED = -2
const NOT_REACHED = -3

export interface Conditions {
  /** Of a packet, each way. */
  readonly loss: number
  /** One way, milliseconds, give or take the jitter. */
  readonly latency: number
  readonly jitter: number
}

/** What goes wrong with APs by itself. */
export interface Troubles {
  /** How often an AP stands still, for how long: milliseconds. */
  readonly pauseEvery?: number
  readonly pause?: number
  /** How often an AP is starved of CPU, and for how long: it gets a turn each 200 to 800 ms then. */
  readonly starveEvery?: number
  readonly starved?: number
  /** How often an AP is cut off, and for how long. */
  readonly outageEvery?: number
  readonly outage?: number
}

const STARVED = [200, 800] as const
/** Two pauses in a row, or two outages, would be one of twice the length. */
const APART = 10_000

export interface Watch {
  told(by: number, ap: number, to: RosterState, now: number): void
  signed(by: number, ap: number, statement: Statement, now: number): void
}

/** A question that is repeated until it is answered or its time is over: are you there, or, can you reach `about`? */
interface Ask {
  readonly id: number
  readonly from: number
  readonly boot: number
  readonly to: number
  /** NOBODY in a direct probe. */
  readonly about: number
  readonly began: number
  signBoot: number
  /** Who waits for the outcome: probes of this AP, and questions of others. */
  readonly probes: Probe[]
  readonly relayed: { readonly ask: Ask; readonly isStreamed: boolean }[]
}
const NOBODY = -1

/** What follows from one effect of the roster: a direct question and, where that takes long, some through others. */
interface Probe {
  readonly id: number
  readonly by: number
  readonly boot: number
  readonly ap: number
  readonly via: readonly number[]
  readonly began: number
  own: number | undefined
  ownBoot: number
  hasAskedOthers: boolean
  waiting: number
  failed: number
  isReached: boolean
}

type Purpose = 'pulses' | 'probes' | 'beacons' | 'told' | 'keys' | 'syncs'

interface Message {
  readonly home: number
  readonly record: Beacon | Statement | Alive
  readonly bytes: number
  readonly from: number
  readonly about: number
  readonly at: number
  /** By place in the neighbourhood. */
  readonly seen: Uint8Array
  underWay: number
}

export class World {
  readonly queue = new Queue()
  readonly isUp: Uint8Array
  readonly boots: Int32Array
  readonly startedAt: Float64Array
  readonly diedAt: Float64Array
  /** Until when an AP stands still; past where it does not. */
  readonly busyUntil: Float64Array
  /** What was sent and received since `forgetTraffic`, by AP. */
  readonly sent: Float64Array
  readonly sentBytes: Float64Array
  readonly received: Float64Array
  readonly receivedBytes: Float64Array
  /** The bytes of all that were sent, by purpose. */
  readonly spent: Record<Purpose, number> = { pulses: 0, probes: 0, beacons: 0, told: 0, keys: 0, syncs: 0 }
  probes = 0
  readonly detectors: Detector[] = []
  private readonly random: Random
  private readonly count: number
  private readonly hasPower: Uint8Array
  private readonly sequences: Int32Array
  private readonly linkedAt: Float64Array
  private readonly starvedUntil: Float64Array
  private readonly cutUntil: Float64Array
  // All pulses of that boot after that sequence say that it will be away for so long.
  private readonly away: Float64Array
  private readonly awayBoot: Int32Array
  private readonly awaySince: Int32Array
  private readonly place: Int32Array
  private readonly overlay: number[][] = []
  private readonly lastBeaconAt: Float64Array
  private readonly isBeaconDue: Uint8Array
  private readonly isRefreshDue: Uint8Array
  private readonly lastAliveAt: Float64Array
  private readonly isLifeDue: Uint8Array
  // Of links from an AP to its watchers, five a piece.
  private readonly watcherAt: Int32Array
  private readonly isHearing: Uint8Array
  private readonly heardAt: Float64Array
  private readonly heardNext: Uint8Array
  private readonly lookedAt: Float64Array
  private readonly streamOf: Float64Array
  private readonly streamReady: Float64Array
  private readonly streamLast: Float64Array
  private readonly latestBoot: Int32Array
  private readonly latestSequence: Int32Array
  private readonly asks = new Map<number, Ask>()
  private readonly running = new Map<number, Ask>()
  private readonly answering = new Set<number>()
  private readonly waitingProbes = new Map<number, Probe>()
  private readonly messages = new Map<number, Message>()
  /** What gossipsub still tells of, by neighbourhood: ids, oldest first. */
  private readonly recent: Map<number, Message>[]
  private lastId = 0

  constructor(
    readonly members: Members,
    private readonly conditions: Conditions,
    private readonly sizes: Sizes,
    private readonly watch: Watch,
    seed: string,
    private readonly troubles: Troubles = {},
  ) {
    this.random = new Random(seed)
    const n = members.ids.length
    this.count = n
    const perAp = () => new Float64Array(n)
    this.isUp = new Uint8Array(n)
    this.hasPower = new Uint8Array(n)
    this.boots = new Int32Array(n)
    this.sequences = new Int32Array(n)
    this.startedAt = perAp()
    this.diedAt = perAp()
    this.busyUntil = perAp()
    this.linkedAt = perAp()
    this.starvedUntil = perAp()
    this.cutUntil = perAp()
    this.away = perAp()
    this.awayBoot = new Int32Array(n)
    this.awaySince = new Int32Array(n)
    this.sent = perAp()
    this.sentBytes = perAp()
    this.received = perAp()
    this.receivedBytes = perAp()
    this.lastBeaconAt = perAp()
    this.lookedAt = perAp()
    this.isBeaconDue = new Uint8Array(n)
    this.isRefreshDue = new Uint8Array(n)
    this.lastAliveAt = perAp().fill(Number.NEGATIVE_INFINITY)
    this.isLifeDue = new Uint8Array(n)
    this.recent = members.homes.map(() => new Map())
    this.place = new Int32Array(n)
    const links = n * MOST_WATCHERS
    this.watcherAt = new Int32Array(links).fill(NOBODY)
    for (const [ap, watchers] of members.watchers.entries()) this.watcherAt.set(watchers, ap * MOST_WATCHERS)
    this.isHearing = new Uint8Array(links)
    this.heardAt = new Float64Array(links * RING).fill(Number.NEGATIVE_INFINITY)
    this.heardNext = new Uint8Array(links)
    this.streamOf = new Float64Array(links)
    this.streamReady = new Float64Array(links)
    this.streamLast = new Float64Array(links)
    this.latestBoot = new Int32Array(links)
    this.latestSequence = new Int32Array(links)
    for (const home of members.homes) this.layOver(home)
    for (let ap = 0; ap < n; ap++) this.begin(ap)
  }

  get now(): number {
    return this.queue.now
  }

  hasSynced(ap: number): boolean {
    return this.linkedAt[ap]! < this.now
  }

  sequence(ap: number): number {
    return this.sequences[ap]!
  }

  // A ring in random order, and random links until each has its degree.
  private layOver(home: readonly number[]): void {
    const degree = Math.min(DEGREE, home.length - 1)
    for (const [place, ap] of home.entries()) {
      this.place[ap] = place
      this.overlay[ap] = []
    }
    const ring = this.random.shuffled(home)
    const link = (a: number, b: number) => {
      if (a === b || this.overlay[a]!.includes(b)) return
      this.overlay[a]!.push(b)
      this.overlay[b]!.push(a)
    }
    for (const [i, ap] of ring.entries()) link(ap, ring[(i + 1) % ring.length]!)
    for (const ap of ring) {
      for (let tries = 0; this.overlay[ap]!.length < degree && tries < 100; tries++) {
        const other = this.random.pick(ring)
        if (this.overlay[other]!.length < degree || tries > 50) link(ap, other)
      }
    }
  }

  // The mesh has been there for long: all know each other's beacons, and are connected.
  private begin(ap: number): void {
    const { random } = this
    this.isUp[ap] = 1
    this.hasPower[ap] = 1
    this.boots[ap] = 1
    this.sequences[ap] = 1
    this.diedAt[ap] = Number.NaN
    this.linkedAt[ap] = 0
    const detector = new Detector(this.members, ap, 0)
    this.detectors[ap] = detector
    for (const other of this.members.tracked[ap]!) {
      if (other !== ap) detector.beacon(other, detector.beaconOf(other, 1, 0), 0)
    }
    this.lastBeaconAt[ap] = -random.between(0, beaconPause(this.homeSize(ap), false))
    this.startTimers(ap, TIMING.pulse)
    const { pauseEvery, starveEvery, outageEvery } = this.troubles
    if ((pauseEvery ?? starveEvery ?? outageEvery) !== undefined)
      this.queue.add(random.int(HEARTBEAT), TROUBLE, ap, 0, 0)
  }

  private startTimers(ap: number, phase: number): void {
    const boot = this.boots[ap]!
    this.queue.add(this.random.int(TICK), TICKS, ap, boot, 0)
    this.queue.add(this.random.int(phase), PULSES, ap, boot, 0)
    this.queue.add(this.random.int(HEARTBEAT), HEARTBEATS, ap, boot, 0)
  }

  private homeSize(ap: number): number {
    return this.members.homes[this.members.homeOf[ap]!]!.length
  }

  // --- what is done to APs ------------------------------------------------------------------------------------------

  /** Nothing comes from it any more, not even a reset. */
  cutPower(ap: number): void {
    this.isUp[ap] = 0
    this.hasPower[ap] = 0
    this.diedAt[ap] = this.now
  }

  /** Its host closes its connections. */
  endProcess(ap: number): void {
    this.isUp[ap] = 0
    this.diedAt[ap] = this.now
    for (const other of this.members.tracked[ap]!) {
      if (other !== ap && this.isUp[other]) this.queue.add(this.byStream('keys', ap, other, 0, 0), LOST, other, ap, 0)
    }
  }

  start(ap: number): void {
    this.isUp[ap] = 1
    this.hasPower[ap] = 1
    this.boots[ap]!++
    this.sequences[ap] = 0
    this.startedAt[ap] = this.now
    this.busyUntil[ap] = this.now
    this.isBeaconDue[ap] = 0
    this.isRefreshDue[ap] = 0
    this.isLifeDue[ap] = 0
    this.lastBeaconAt[ap] = this.now
    const wait = 2 * HANDSHAKES * this.latency() + this.random.between(0, 100)
    this.linkedAt[ap] = this.now + wait
    this.detectors[ap] = new Detector(this.members, ap, this.now, this.detectors[ap]!)
    // No process that was its peer knows the new one.
    for (const other of this.overlay[ap]!) this.overlay[other] = this.overlay[other]!.filter((peer) => peer !== ap)
    this.overlay[ap] = []
    this.startTimers(ap, 1)
    this.queue.add(wait, LINKED, ap, this.boots[ap]!, 0)
  }

  /** It says that it will be silent for so long. */
  sayAway(ap: number, ms: number): void {
    this.away[ap] = ms
    this.awayBoot[ap] = this.boots[ap]!
    this.awaySince[ap] = this.sequences[ap]!
    this.sendBeacon(ap, ms)
    this.sendPulses(ap)
  }

  /** It stands still, as with SIGSTOP. What comes waits, and timers run when it wakes, first of all. */
  pause(ap: number, ms: number): void {
    this.busyUntil[ap] = Math.max(this.busyUntil[ap]!, this.now + ms)
  }

  /** Nothing comes from it or to it for so long, 10 s at most; TCP sends again what was lost. */
  cutOff(ap: number, ms: number): void {
    this.cutUntil[ap] = this.now + ms
  }

  forgetTraffic(): void {
    for (const counts of [this.sent, this.sentBytes, this.received, this.receivedBytes]) counts.fill(0)
    for (const purpose of Object.keys(this.spent) as Purpose[]) this.spent[purpose] = 0
  }

  // --- the course of time -------------------------------------------------------------------------------------------

  runUntil(end: number): void {
    const { queue, busyUntil, isUp } = this
    while (queue.next(end)) {
      const { kind, who, a, b } = queue
      if (!isUp[who]) {
        if (kind === TROUBLE) queue.add(HEARTBEAT, TROUBLE, who, 0, 0)
        else if (kind === MESSAGE_IN) this.arrived(a)
        continue
      }
      if (busyUntil[who]! > queue.now && kind !== TROUBLE) {
        queue.add(busyUntil[who]! - queue.now + (kind <= LAST_TIMER ? 0 : 1), kind, who, a, b)
        continue
      }
      this.happen(kind, who, a, b)
    }
    queue.now = end
  }

  private happen(kind: number, who: number, a: number, b: number): void {
    if (kind <= LAST_OF_A_LIFE) {
      if (a === this.boots[who]) this.takeTurn(kind, who, a, b)
    } else if (kind === PULSE_IN) this.takePulse(who, a, b, true)
    else if (kind === STREAMED_PULSE_IN) this.takePulse(who, a, b, false)
    else if (kind === MESSAGE_IN) this.takeMessage(who, a)
    else if (kind === PROBE_WAITED) this.askOthers(a)
    else if (kind === ASK_AGAIN) this.askAgain(a)
    else if (kind === ASK_BY_STREAM) this.askByStream(a)
    else if (kind === ASK_IN) this.takeAsk(who, a, false)
    else if (kind === STREAMED_ASK_IN) this.takeAsk(who, a, true)
    else if (kind === ANSWER_IN || kind === ASK_ENDS) this.settle(a, b)
    else if (kind === REFUSAL_IN) this.takeRefusal(a)
    else if (kind === LOST) this.detectors[who]!.lost(a, this.now)
    else if (kind === TROUBLE) this.trouble(who)
  }

  private takeTurn(kind: number, ap: number, boot: number, b: number): void {
    if (kind === TICKS) {
      this.tick(ap)
      this.queue.add(TICK, TICKS, ap, boot, 0)
    } else if (kind === PULSES) {
      this.sendPulses(ap)
      this.queue.add(TIMING.pulse, PULSES, ap, boot, 0)
    } else if (kind === REPEATS) this.repeatPulses(ap, b)
    else if (kind === HEARTBEATS) {
      this.heartbeat(ap)
      this.queue.add(HEARTBEAT, HEARTBEATS, ap, boot, 0)
    } else if (kind === REFRESHES) {
      this.isRefreshDue[ap] = 0
      this.tick(ap)
    } else if (kind === BEACON_DUE) this.sendBeacon(ap)
    else if (kind === LINKED) this.catchUp(ap)
    else if (kind === LIFE_DUE) this.sendAlive(ap)
  }

  private tick(ap: number): void {
    const { now } = this
    const effects = this.detectors[ap]!.tick(now)
    for (let i = 0; i < effects.length; i++) this.carryOut(ap, effects[i]!)
    if (now - this.lastBeaconAt[ap]! > beaconPause(this.homeSize(ap), false) && now >= this.linkedAt[ap]!)
      this.scheduleBeacon(ap)
  }

  private carryOut(by: number, effect: Effect): void {
    const { ap } = effect
    if (effect.do === 'probe') this.probe(by, ap, effect.via)
    else if (effect.do === 'accuse') {
      const statement = this.detectors[by]!.statementOf(by, ap, effect.statement, this.now)
      this.watch.signed(by, ap, statement, this.now)
      this.detectors[by]!.statement(statement)
      this.scheduleRefresh(by)
      this.publishRecord(by, ap, statement)
    } else {
      this.watch.told(by, ap, effect.to, this.now)
      this.scheduleRefresh(by)
      if (effect.to === 'dead') this.overlay[by] = this.overlay[by]!.filter((other) => other !== ap)
      // The connection is given up; where that was wrong, the other side notices.
      if (effect.to === 'dead' && this.isUp[ap]) this.queue.add(this.byStream('keys', by, ap, 0, 0), LOST, ap, by, 0)
    }
  }

  private scheduleRefresh(ap: number): void {
    if (this.isRefreshDue[ap]) return
    this.isRefreshDue[ap] = 1
    this.queue.add(REFRESH_AFTER, REFRESHES, ap, this.boots[ap]!, 0)
  }

  private trouble(ap: number): void {
    const { random, now } = this
    const { pauseEvery, pause = 1000, starveEvery, starved = 30_000, outageEvery, outage = 1000 } = this.troubles
    const isWhole = now - this.cutUntil[ap]! >= APART
    if (isWhole && outageEvery !== undefined && random.chance(HEARTBEAT / outageEvery)) this.cutOff(ap, outage)
    const awake = now - this.busyUntil[ap]!
    if (awake >= APART && pauseEvery !== undefined && random.chance(HEARTBEAT / pauseEvery)) this.pause(ap, pause)
    if (awake >= APART && starveEvery !== undefined && random.chance(HEARTBEAT / starveEvery))
      this.starvedUntil[ap] = now + starved
    if (awake >= 0 && this.starvedUntil[ap]! > now) this.pause(ap, random.between(...STARVED))
    // A starved AP gets a few milliseconds between its turns. Others have trouble at no fixed time after their last pulse.
    const wait =
      this.starvedUntil[ap]! > now
        ? this.busyUntil[ap]! - now + random.between(1, 20)
        : random.between(0.5, 1.5) * HEARTBEAT
    this.queue.add(wait, TROUBLE, ap, 0, 0)
  }

  // --- packets ------------------------------------------------------------------------------------------------------

  private latency(): number {
    const { latency, jitter } = this.conditions
    return latency + jitter * (2 * this.random.next() - 1)
  }

  private isLost(from: number, to: number, at: number): boolean {
    return this.cutUntil[from]! > at || this.cutUntil[to]! > at || this.random.chance(this.conditions.loss)
  }

  private isLinked(a: number, b: number): boolean {
    return this.linkedAt[a]! <= this.now && this.linkedAt[b]! <= this.now
  }

  private charge(purpose: Purpose, from: number, to: number, packets: number, bytes: number): void {
    this.spent[purpose] += bytes
    this.sent[from]! += packets
    this.sentBytes[from]! += bytes
    this.received[to]! += packets
    this.receivedBytes[to]! += bytes
  }

  /** Returns after how long a datagram arrives, NaN for one that is lost. Without keys of both processes none counts. */
  private byDatagram(purpose: Purpose, from: number, to: number, bytes: number): number {
    this.spent[purpose] += bytes
    this.sent[from]!++
    this.sentBytes[from]! += bytes
    if (this.isLost(from, to, this.now) || !this.isLinked(from, to)) return Number.NaN
    this.received[to]!++
    this.receivedBytes[to]! += bytes
    return this.latency()
  }

  /** Returns after how long something sent over a stream arrives: TCP sends it until it does, and waits longer each time. */
  private byStream(purpose: Purpose, from: number, to: number, packets: number, bytes: number): number {
    const { latency, jitter } = this.conditions
    this.charge(purpose, from, to, packets, bytes)
    this.charge(purpose, to, from, packets, packets * this.sizes.ack)
    let waited = 0
    let wait = Math.max(RTO_MIN, 2 * latency + 4 * jitter)
    while (waited < LONGEST_WAIT && this.isLost(from, to, this.now + waited)) {
      this.charge(purpose, from, to, packets, bytes)
      waited += wait
      wait *= 2
    }
    return Math.min(waited, LONGEST_WAIT) + this.latency()
  }

  // --- pulses -------------------------------------------------------------------------------------------------------

  private sendPulses(ap: number): void {
    const sequence = ++this.sequences[ap]!
    const boot = this.boots[ap]!
    for (let link = ap * MOST_WATCHERS; link < (ap + 1) * MOST_WATCHERS; link++) {
      const watcher = this.watcherAt[link]!
      if (watcher === NOBODY) break
      this.sendPulse(ap, link, watcher, boot, sequence)
      if (!this.isHearing[link]) this.streamPulse(ap, link, watcher, boot, sequence)
    }
    this.queue.add(REPEAT_PULSE, REPEATS, ap, boot, sequence)
  }

  private sendPulse(ap: number, link: number, watcher: number, boot: number, sequence: number): void {
    const delay = this.byDatagram('pulses', ap, watcher, this.sizes.pulse)
    if (delay >= 0) this.queue.add(delay, PULSE_IN, watcher, link + boot * this.watcherAt.length, sequence)
  }

  private streamPulse(ap: number, link: number, watcher: number, boot: number, sequence: number): void {
    if (!this.isLinked(ap, watcher) || !this.isUp[watcher]) return
    const { now } = this
    const processes = boot * 65_536 + this.boots[watcher]!
    if (this.streamOf[link] !== processes) {
      // Opens it, and this pulse goes when it is open.
      this.streamOf[link] = processes
      this.streamReady[link] = now + this.byStream('pulses', ap, watcher, 1, this.sizes.opening) + this.latency()
      this.streamLast[link] = this.streamReady[link]!
    } else if (now < this.streamReady[link]!) return
    const start = Math.max(now, this.streamReady[link]!)
    const arrival = Math.max(
      this.streamLast[link]!,
      start + this.byStream('pulses', ap, watcher, 1, this.sizes.streamed),
    )
    if (arrival - now > LONGEST_WAIT) return
    this.streamLast[link] = arrival
    this.queue.add(arrival - now, STREAMED_PULSE_IN, watcher, link + boot * this.watcherAt.length, sequence)
  }

  private repeatPulses(ap: number, sequence: number): void {
    const boot = this.boots[ap]!
    const { now } = this
    const since = this.lookedAt[ap]!
    this.lookedAt[ap] = now
    for (let link = ap * MOST_WATCHERS; link < (ap + 1) * MOST_WATCHERS; link++) {
      const watcher = this.watcherAt[link]!
      if (watcher === NOBODY) break
      if (this.hasHeard(link, since, now)) this.isHearing[link] = 1
      else {
        this.sendPulse(ap, link, watcher, boot, sequence)
        if (this.isHearing[link]) {
          this.isHearing[link] = 0
          this.streamPulse(ap, link, watcher, boot, sequence)
        }
      }
    }
  }

  private hasHeard(link: number, since: number, now: number): boolean {
    for (let i = link * RING; i < (link + 1) * RING; i++) {
      if (this.heardAt[i]! > since && this.heardAt[i]! <= now) return true
    }
    return false
  }

  private takePulse(watcher: number, packed: number, sequence: number, isDatagram: boolean): void {
    const link = packed % this.watcherAt.length
    const boot = (packed - link) / this.watcherAt.length
    const ap = (link - (link % MOST_WATCHERS)) / MOST_WATCHERS
    if (isDatagram) {
      // That it was heard is noted for when it arrives, which saves an event.
      const delay = this.byDatagram('pulses', watcher, ap, this.sizes.heard)
      if (delay >= 0) {
        const at = this.heardNext[link]!
        this.heardAt[link * RING + at] = this.now + delay
        this.heardNext[link] = (at + 1) % RING
      }
    }
    const latestBoot = this.latestBoot[link]!
    if (boot < latestBoot || (boot === latestBoot && sequence <= this.latestSequence[link]!)) return
    this.latestBoot[link] = boot
    this.latestSequence[link] = sequence
    const away = boot === this.awayBoot[ap] && sequence > this.awaySince[ap]! ? this.away[ap]! : undefined
    this.detectors[watcher]!.pulse(ap, boot, sequence, away, this.now)
  }

  // --- probes -------------------------------------------------------------------------------------------------------

  private probe(by: number, ap: number, via: readonly number[]): void {
    this.probes++
    const probe: Probe = {
      ...{ id: ++this.lastId, by, boot: this.boots[by]!, ap, via, began: this.now },
      ...{ own: undefined, ownBoot: 0, hasAskedOthers: false, waiting: 0, failed: 0, isReached: false },
    }
    this.waitingProbes.set(probe.id, probe)
    this.queue.add(PROBE_HEAD_START, PROBE_WAITED, by, probe.id, 0)
    this.askDirectly(by, ap).probes.push(probe)
  }

  private askDirectly(by: number, ap: number): Ask {
    const key = by * this.count + ap
    let ask = this.running.get(key)
    if (ask === undefined || ask.boot !== this.boots[by]) {
      ask = this.ask(by, ap, NOBODY, PROBE_DEADLINE, HEAD_START)
      this.running.set(key, ask)
    }
    return ask
  }

  private ask(from: number, to: number, about: number, deadline: number, headStart: number): Ask {
    const id = ++this.lastId
    const common = { id, from, boot: this.boots[from]!, to, about, began: this.now }
    const ask: Ask = { ...common, signBoot: 0, probes: [], relayed: [] }
    this.asks.set(id, ask)
    this.askAgain(id)
    this.queue.add(this.isLinked(from, to) ? headStart : 0, ASK_BY_STREAM, from, id, 0)
    this.queue.add(deadline, ASK_ENDS, from, id, SILENT)
    return ask
  }

  private askAgain(id: number): void {
    const ask = this.asks.get(id)
    if (ask === undefined) return
    if (ask.boot !== this.boots[ask.from]) return void this.asks.delete(id)
    const delay = this.byDatagram('probes', ask.from, ask.to, ask.about === NOBODY ? this.sizes.ask : this.sizes.askFor)
    if (delay >= 0) this.queue.add(delay, ASK_IN, ask.to, id, 0)
    this.queue.add(REPEAT_PROBE, ASK_AGAIN, ask.from, id, 0)
  }

  private askByStream(id: number): void {
    const ask = this.asks.get(id)
    if (ask === undefined) return
    const { from, to } = ask
    const roundTrip = this.byStream('probes', from, to, 1, this.sizes.opening) + this.latency()
    if (!this.isUp[to]) {
      if (this.hasPower[to]) this.queue.add(roundTrip, REFUSAL_IN, from, id, 0)
      return
    }
    // Where there is no connection yet, one is made first.
    const dialling = this.isLinked(from, to) ? 0 : (HANDSHAKES - 1) * 2 * this.latency()
    const delay = dialling + roundTrip + this.byStream('probes', from, to, 1, this.sizes.streamed)
    if (delay < LONGEST_WAIT) this.queue.add(delay, STREAMED_ASK_IN, to, id, 0)
  }

  // A host that is there refuses at once, and datagrams get no longer to tell otherwise.
  private takeRefusal(id: number): void {
    const ask = this.asks.get(id)
    if (ask !== undefined) this.queue.add(0, ASK_ENDS, ask.from, id, REFUSED)
  }

  private takeAsk(by: number, id: number, isStreamed: boolean): void {
    const ask = this.asks.get(id)
    if (ask === undefined) return
    if (ask.about === NOBODY) this.answer(ask, ++this.sequences[by]!, this.boots[by]!, isStreamed)
    else if (isStreamed || !this.answering.has(id)) {
      if (!isStreamed) this.answering.add(id)
      this.askDirectly(by, ask.about).relayed.push({ ask, isStreamed })
    }
  }

  private answer(ask: Ask, outcome: number, boot: number, isStreamed: boolean): void {
    ask.signBoot = boot
    const { from, to } = ask
    if (isStreamed)
      this.queue.add(this.byStream('probes', to, from, 1, this.sizes.streamed), ANSWER_IN, from, ask.id, outcome)
    else {
      const delay = this.byDatagram('probes', to, from, this.sizes.answer)
      if (delay >= 0) this.queue.add(delay, ANSWER_IN, from, ask.id, outcome)
    }
  }

  /** @param outcome the sequence of the life sign, or SILENT, REFUSED, NOT_REACHED */
  private settle(id: number, outcome: number): void {
    const ask = this.asks.get(id)
    if (ask === undefined) return
    this.asks.delete(id)
    const { from, to, about } = ask
    if (about === NOBODY && this.running.get(from * this.count + to) === ask)
      this.running.delete(from * this.count + to)
    if (ask.boot !== this.boots[from]) return
    for (const { ask: relayed, isStreamed } of ask.relayed) {
      this.answering.delete(relayed.id)
      if (relayed.to === from) this.answer(relayed, outcome >= 0 ? outcome : NOT_REACHED, ask.signBoot, isStreamed)
    }
    for (const probe of ask.probes) {
      if (about === NOBODY) {
        probe.own = outcome
        probe.ownBoot = ask.signBoot
        if (outcome >= 0 && !probe.hasAskedOthers) this.conclude(probe)
        else if (!probe.hasAskedOthers) this.askOthers(probe.id)
        else this.concludeIfSure(probe)
      } else {
        probe.waiting--
        if (outcome >= 0) probe.isReached = true
        else if (outcome === NOT_REACHED) probe.failed++
        this.concludeIfSure(probe)
      }
    }
  }

  private concludeIfSure(probe: Probe): void {
    const isSure = probe.isReached || probe.failed >= ENOUGH_FAILED || probe.waiting === 0
    if (isSure && probe.own !== undefined) this.conclude(probe)
  }

  private askOthers(id: number): void {
    const probe = this.waitingProbes.get(id)
    if (probe === undefined || probe.hasAskedOthers) return
    probe.hasAskedOthers = true
    probe.waiting = probe.via.length
    for (const via of probe.via) {
      this.ask(probe.by, via, probe.ap, INDIRECT_DEADLINE, INDIRECT_HEAD_START).probes.push(probe)
    }
    this.concludeIfSure(probe)
  }

  private conclude(probe: Probe): void {
    const { id, by, ap, own, ownBoot, isReached, began } = probe
    if (!this.waitingProbes.delete(id) || probe.boot !== this.boots[by]) return
    const sign = own! >= 0 ? { boot: ownBoot, sequence: own! } : own === REFUSED ? 'refused' : 'silent'
    this.detectors[by]!.probed(ap, sign, isReached, began, this.now)
  }

  // --- beacons and statements -----------------------------------------------------------------------------------------

  private scheduleBeacon(ap: number): void {
    if (this.isBeaconDue[ap]) return
    this.isBeaconDue[ap] = 1
    const wait = Math.max(10, BEACON_MIN - (this.now - this.lastBeaconAt[ap]!))
    this.queue.add(wait, BEACON_DUE, ap, this.boots[ap]!, 0)
  }

  private sendBeacon(ap: number, away?: number): void {
    this.isBeaconDue[ap] = 0
    this.lastBeaconAt[ap] = this.now
    const beacon = this.detectors[ap]!.beaconOf(ap, this.boots[ap]!, ++this.sequences[ap]!, away)
    this.dropIfDone(this.publish(ap, ap, this.members.homeOf[ap]!, beacon, this.sizes.beacon))
  }

  /** Where beacons are not heard by all, an AP that is accused shows so that it lives. */
  private scheduleAlive(ap: number): void {
    if (this.members.homes.length === 1 || this.isLifeDue[ap]) return
    this.isLifeDue[ap] = 1
    const wait = Math.max(REFRESH_AFTER, this.lastAliveAt[ap]! + SHOW_LIFE_EVERY - this.now)
    this.queue.add(wait, LIFE_DUE, ap, this.boots[ap]!, 0)
  }

  private sendAlive(ap: number): void {
    this.isLifeDue[ap] = 0
    this.lastAliveAt[ap] = this.now
    const alive = this.detectors[ap]!.aliveOf(ap, this.boots[ap]!, ++this.sequences[ap]!, this.now)
    this.detectors[ap]!.alive(alive)
    this.publishRecord(ap, ap, alive)
  }

  /** Records go to the whole mesh. Here they go to those for whom something may follow from them. */
  private publishRecord(by: number, ap: number, record: Statement | Alive): void {
    const { homeOf, homes } = this.members
    const { near, far } = this.members.concernedBy(ap)
    for (const home of near) {
      const message = this.publish(by, ap, home, record, this.sizes.statement)
      if (homeOf[by] !== home) {
        const living = homes[home]!.filter((other) => this.isUp[other])
        for (const other of this.random.shuffled(living).slice(0, INTO_OTHERS)) this.sendAcross(by, other, message)
      }
      if (home === homeOf[ap]) for (const other of far) if (other !== by) this.sendAcross(by, other, message)
      this.dropIfDone(message)
    }
  }

  /** Begins to gossip in a neighbourhood, where the sender is one of it. */
  private publish(from: number, about: number, home: number, record: Message['record'], bytes: number): number {
    const seen = new Uint8Array(this.members.homes[home]!.length)
    const id = ++this.lastId
    const message: Message = { home, record, bytes, from, about, at: this.now, seen, underWay: 0 }
    this.messages.set(id, message)
    this.recent[home]!.set(id, message)
    if (this.members.homeOf[from] === home) {
      seen[this.place[from]!] = 1
      this.forward(from, id, message)
    }
    return id
  }

  private forward(from: number, id: number, message: Message): void {
    for (const other of this.overlay[from]!) {
      if (!this.isUp[other] || !this.isLinked(from, other)) continue
      const delay = this.byStream('beacons', from, other, 1, message.bytes) + HANDLING
      // A second copy costs what the first does, and nothing follows from it.
      if (message.seen[this.place[other]!]) continue
      message.underWay++
      this.queue.add(delay, MESSAGE_IN, other, id, 0)
    }
  }

  private sendDirectly(from: number, to: number, id: number, hops = 1): void {
    const message = this.messages.get(id)!
    if (!this.isUp[to] || !this.isLinked(from, to)) return
    let delay = 0
    for (let hop = 0; hop < hops; hop++) delay += this.byStream('beacons', from, to, 1, message.bytes) + HANDLING
    if (delay >= LONGEST_WAIT) return
    message.underWay++
    this.queue.add(delay, MESSAGE_IN, to, id, 0)
  }

  /** By gossip of the whole mesh, in which each hands on to some that have not heard it. */
  private sendAcross(from: number, to: number, id: number): void {
    this.sendDirectly(from, to, id, Math.ceil(Math.log(this.count) / Math.log(DEGREE - 1)))
  }

  private arrived(id: number): Message {
    const message = this.messages.get(id)!
    message.underWay--
    this.dropIfDone(id)
    return message
  }

  private dropIfDone(id: number): void {
    if (this.messages.get(id)?.underWay === 0) this.messages.delete(id)
  }

  private takeMessage(ap: number, id: number): void {
    const message = this.messages.get(id)!
    const isInside = this.members.homeOf[ap] === message.home
    const place = this.place[ap]!
    if (!isInside || !message.seen[place]) {
      if (isInside) message.seen[place] = 1
      if (this.take(ap, message) && isInside) this.forward(ap, id, message)
    }
    this.arrived(id)
  }

  /** Returns true for what is new. */
  private take(ap: number, { record, from, about }: Message): boolean {
    const detector = this.detectors[ap]!
    if (record.kind === 'beacon') return detector.beacon(from, record, this.now)
    if (!(record.kind === 'alive' ? detector.alive(record) : detector.statement(record))) return false
    if (about === ap) this.answerAccusers(ap)
    else this.scheduleRefresh(ap)
    return true
  }

  /** An AP that is accused shows that it lives. */
  private answerAccusers(ap: number): void {
    this.sendBeacon(ap)
    this.scheduleAlive(ap)
  }

  /** A new process has connections and keys: it syncs with a neighbour, and all that are connected send a beacon. */
  private catchUp(ap: number): void {
    const { tracked, homes, homeOf } = this.members
    const others = homes[homeOf[ap]!]!.filter((other) => other !== ap && this.isUp[other] && this.isLinked(ap, other))
    const homeSize = this.homeSize(ap)
    this.graft(ap)
    if (others.length > 0) {
      const from = this.random.pick(others)
      this.sync(ap, from)
      this.charge('syncs', from, ap, homeSize, homeSize * this.sizes.beacon)
    }
    this.scheduleBeacon(ap)
    // It may have been accused while it was down.
    this.scheduleAlive(ap)
    for (const other of tracked[ap]!) if (other !== ap && this.isUp[other]) this.scheduleBeacon(other)
  }

  private sync(a: number, b: number): void {
    this.chargeSync(a, b)
    if (!this.isUp[b] || !this.isLinked(a, b)) return
    for (const [to, from] of [
      [a, b],
      [b, a],
    ] as const) {
      if (this.detectors[to]!.sync(this.detectors[from]!)) this.answerAccusers(to)
      for (const other of this.members.homes[this.members.homeOf[to]!]!) {
        const beacon = other === to ? undefined : this.detectors[from]!.latestBeacon(other)
        if (beacon !== undefined) this.detectors[to]!.beacon(other, beacon, this.now)
      }
    }
  }

  // Both say which beacons they know. There are hardly any that gossip did not bring.
  private chargeSync(a: number, b: number): void {
    const { sizes } = this
    for (const [from, to] of [
      [a, b],
      [b, a],
    ] as const) {
      const bytes = sizes.opening + 2 * sizes.streamed + this.homeSize(from) * sizes.mark
      this.charge('syncs', from, to, 3 + Math.ceil(bytes / 1400), bytes)
    }
  }

  private graft(ap: number): void {
    const home = this.members.homes[this.members.homeOf[ap]!]!
    const peers = this.overlay[ap]!
    for (let tries = 0; peers.length < Math.min(LEAST_DEGREE, home.length - 1) && tries < DEGREE; tries++) {
      const other = this.random.pick(home)
      if (other === ap || peers.includes(other) || !this.isUp[other] || !this.isLinked(ap, other)) continue
      peers.push(other)
      if (!this.overlay[other]!.includes(ap)) this.overlay[other]!.push(ap)
    }
  }

  // Gossipsub takes new peers for those that are gone, and tells others of what it has, who then ask for what they missed.
  private tellOfMessages(ap: number): void {
    const { random, sizes } = this
    const homeNumber = this.members.homeOf[ap]!
    const home = this.members.homes[homeNumber]!
    const peers = this.overlay[ap]!
    this.graft(ap)
    const recent = this.recent[homeNumber]!
    for (const [id, { at }] of recent) {
      if (this.now - at <= TOLD * HEARTBEAT) break
      recent.delete(id)
    }
    if (recent.size === 0) return
    const outside = Math.min(LAZY, home.length - 1 - peers.length)
    for (let i = 0; i < outside; i++) {
      const other = random.pick(home)
      this.charge('told', ap, other, 1, sizes.ihave + recent.size * sizes.id)
      if (!this.isUp[other] || !this.isLinked(ap, other)) continue
      for (const [id, message] of recent) {
        if (!message.seen[this.place[ap]!] || message.seen[this.place[other]!]) continue
        const asked = this.byStream('told', ap, other, 0, 0) + this.byStream('told', other, ap, 1, sizes.ihave)
        const delay = asked + this.byStream('beacons', ap, other, 1, message.bytes) + HANDLING
        if (delay >= LONGEST_WAIT) continue
        message.underWay++
        this.messages.set(id, message)
        this.queue.add(delay, MESSAGE_IN, other, id, 0)
      }
    }
  }

  /** What goes on beside: keys are made anew, and ledgers compared. */
  private heartbeat(ap: number): void {
    const { sizes, random } = this
    const home = this.members.homes[this.members.homeOf[ap]!]!
    this.tellOfMessages(ap)
    const peers = this.members.watchers[ap]!.length + this.members.watched[ap]!.length
    // Each of a pair may begin; half of the pairs are counted on either side.
    if (random.chance((peers / 2) * (HEARTBEAT / RENEW_KEYS))) {
      const other = random.pick(this.members.watchers[ap]!)
      this.charge('keys', ap, other, 4, sizes.opening + sizes.streamed)
      this.charge('keys', other, ap, 4, sizes.opening + sizes.streamed)
    }
    const neighbour = random.pick(home)
    const isDue = this.isUp[neighbour] === 1 && this.detectors[ap]!.differsFrom(this.detectors[neighbour]!)
    if (isDue || random.chance(HEARTBEAT / SYNC_EVERY)) this.sync(ap, neighbour)
  }
}
