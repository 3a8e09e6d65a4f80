// A small model of APs that lease one instance, over the real code of protocols/leases.ts: true time goes in steps, each
// AP's clock at a rate and from a beginning of its own, and at each turn a chooser decides what goes wrong.
import {
  Holders,
  type LeaseAnswer,
  type LeasePromise,
  type LeaseRequest,
  type LeaseTiming,
  Voter,
} from '../../protocols/leases.js'

/** Picks one of n things to happen; the first one is that nothing goes wrong. */
export type Chooser = (n: number) => number

export interface Scenario {
  readonly timing: LeaseTiming
  /** Rate of each AP's clock, within `1 ± timing.drift`. */
  readonly rates: readonly number[]
  /** The APs that vote in each generation. */
  readonly generations: readonly (readonly number[])[]
  /** Who wants the instance, all the time. */
  readonly candidates: readonly number[]
  /** True time at which it ends. */
  readonly end: number
}

/** What befalls a request and its answer. */
const FATES = ['answered', 'lost', 'unheard', 'late', 'late answer'] as const
const LATE = 3

const CHUTE = 'c0'.repeat(20)
const INSTANCE = `${CHUTE}0000000000`

interface Copy {
  /** On the AP's clock: the watchdog's deadline. */
  until: number
  epoch: number
}

class ModelAp {
  voter: Voter
  holders: Holders
  /** On disk. */
  readonly promises = new Map<string, LeasePromise>()
  readonly signed = new Map<string, number>()
  readonly released = new Map<string, number>()
  claimed = 1
  copy: Copy | undefined
  generation = 0
  wants = true
  isCut = false

  constructor(
    readonly id: number,
    readonly rate: number,
    readonly scenario: Scenario,
  ) {
    // Long before the beginning, so that the first lease is to be had at once.
    this.voter = new Voter(String(id), this.local(-1000), [], [], scenario.timing)
    this.holders = new Holders(String(id), [], scenario.timing)
    this.learn(0, 0)
  }

  local(at: number): number {
    return 7000 * (this.id + 1) + at * this.rate
  }

  learn(generation: number, at: number): void {
    this.generation = generation
    this.voter.learn(CHUTE, generation, this.scenario.generations[generation]!.map(String), this.local(at))
  }

  /** The process is killed and started again; the copy lives on under its watchdog. */
  restart(at: number): void {
    const { timing } = this.scenario
    this.voter = new Voter(String(this.id), this.local(at), this.promises, this.signed, timing)
    this.holders = new Holders(String(this.id), this.released, timing)
    const { generation } = this
    this.learn(0, at)
    if (generation > 0) this.learn(generation, at)
  }

  /** True time until which the copy may be alive. */
  aliveUntil(): number {
    if (this.copy === undefined) return Number.NEGATIVE_INFINITY
    return (this.copy.until - this.local(0)) / this.rate + this.scenario.timing.kill
  }
}

interface Late {
  at: number
  what: () => void
}

/** Plays a scenario to its end. @returns what went wrong, or undefined where no two copies were alive at once */
export function play(scenario: Scenario, choose: Chooser): string | undefined {
  const aps = scenario.rates.map((rate, id) => new ModelAp(id, rate, scenario))
  const late: Late[] = []
  const epochs = new Map<number, number>()
  let violation: string | undefined

  const answer = (voter: ModelAp, from: ModelAp, request: LeaseRequest, at: number): LeaseAnswer => {
    const verdict = voter.voter.request(String(from.id), request, 0, voter.local(at))
    if (verdict.save !== undefined) {
      voter.promises.set(request.instance, verdict.save)
      voter.voter.saved(request.instance, verdict.save)
    }
    return verdict.answer
  }

  const ask = (from: ModelAp, to: number, request: LeaseRequest, sentAt: number, at: number) => {
    const voter = aps[to]!
    const { holders } = from
    const tell = (heard: LeaseAnswer, when: number) =>
      holders.answered(String(to), request, sentAt, heard, from.local(when))
    if (to !== from.id && (from.isCut || voter.isCut)) return
    const fate = FATES[choose(FATES.length)]!
    if (fate === 'lost') return
    if (fate === 'late') {
      late.push({ at: at + LATE, what: () => tell(answer(voter, from, request, at + LATE), at + LATE) })
      return
    }
    const heard = answer(voter, from, request, at)
    if (fate === 'answered') tell(heard, at)
    else if (fate === 'late answer') late.push({ at: at + LATE, what: () => tell(heard, at + LATE) })
  }

  const release = (from: ModelAp, voters: readonly string[], epoch: number, at: number) => {
    from.released.set(INSTANCE, epoch)
    for (const to of voters) {
      const arrive = () => aps[Number(to)]!.voter.release(String(from.id), INSTANCE, epoch)
      const fate = [0, 3, undefined][choose(3)]
      if (fate === 0) arrive()
      else if (fate !== undefined) late.push({ at: at + fate, what: arrive })
    }
  }

  const run = (ap: ModelAp, at: number) => {
    const { holders } = ap
    const now = ap.local(at)
    const until = holders.until(INSTANCE)
    const epoch = ap.wants ? holders.holds(INSTANCE, now) : undefined
    if (epoch !== undefined) {
      if (ap.aliveUntil() <= at || ap.copy === undefined || ap.copy.epoch !== epoch) {
        const other = aps.find((one) => one !== ap && one.aliveUntil() > at)
        if (other !== undefined) violation ??= `at ${at} AP ${ap.id} starts while AP ${other.id} may run`
        const user = epochs.get(epoch) ?? ap.id
        if (user !== ap.id) violation ??= `at ${at} AP ${ap.id} uses epoch ${epoch}, which AP ${user} used`
        epochs.set(epoch, ap.id)
        ap.claimed = epoch
      }
      ap.copy = { until, epoch }
    }
  }

  const turn = (ap: ModelAp, at: number) => {
    const { generation } = ap
    const voters = scenario.generations[generation]!.map(String)
    const seat = { instance: INSTANCE, generation, voters, epoch: ap.claimed }
    const now = ap.local(at)
    ap.holders.want(ap.wants ? [seat] : [], now)
    if (!ap.wants) ap.copy = undefined // stopped in time, which a planned stop sees to
    for (const effect of ap.holders.tick(
      now,
      () => ap.aliveUntil() > at,
      () => true,
    )) {
      if (effect.do === 'ask') ask(ap, Number(effect.voter), effect.request, effect.sentAt, at)
      else if (effect.do === 'release') release(ap, effect.voters, effect.epoch, at)
    }
    run(ap, at)
  }

  /** The majority of the voters signs for the next generation; each AP learns of it in its own time. */
  const changeVoters = (at: number) => {
    const next = 1
    const voters = scenario.generations[0]!
    const signers = [voters.slice(0, 2), voters.slice(1), [voters[0]!, voters[2]!]][choose(3)]!
    for (const id of signers) {
      if (aps[id]!.voter.sign(CHUTE, next)) aps[id]!.signed.set(CHUTE, next)
    }
    for (const ap of aps) {
      const delay = [0, 3, undefined][choose(3)]
      if (delay === 0) ap.learn(next, at)
      else if (delay !== undefined) late.push({ at: at + delay, what: () => ap.learn(next, at + delay) })
    }
  }

  for (let at = 0; at <= scenario.end && violation === undefined; at++) {
    for (const one of [...late].filter((one) => one.at === at)) {
      late.splice(late.indexOf(one), 1)
      one.what()
    }
    const events = [
      () => {},
      ...aps.map((ap) => () => ap.restart(at)),
      ...scenario.candidates.map((id) => () => {
        aps[id]!.wants = false
      }),
      ...aps.map((ap) => () => {
        ap.isCut = !ap.isCut
      }),
      ...(scenario.generations.length > 1 && aps.every(({ signed }) => signed.size === 0)
        ? [() => changeVoters(at)]
        : []),
    ]
    const event = choose(events.length)
    events[event]!()
    const order = choose(2) === 0 ? scenario.candidates : [...scenario.candidates].reverse()
    for (const id of order) turn(aps[id]!, at)
    for (const id of scenario.candidates) aps[id]!.wants = true
  }
  return violation
}

/**
 * Plays a scenario in every way in which at most `faults` choices are other than the first.
 * @returns how often it was played, and the first violation
 */
export function explore(scenario: Scenario, faults: number): { runs: number; violation: string | undefined } {
  let runs = 0
  // The choices of a run up to its last fault; what comes after it are first choices.
  const open: { prefix: number[]; left: number }[] = [{ prefix: [], left: faults }]
  for (;;) {
    const next = open.pop()
    if (next === undefined) return { runs, violation: undefined }
    const { prefix, left } = next
    const taken: number[] = []
    const violation = play(scenario, (n) => {
      const at = taken.length
      const choice = prefix[at] ?? 0
      if (at >= prefix.length && left > 0) {
        for (let other = 1; other < n; other++) open.push({ prefix: [...taken, other], left: left - 1 })
      }
      taken.push(choice)
      return choice
    })
    runs++
    if (violation !== undefined) return { runs, violation: `${violation}; choices ${taken.join(' ')}` }
  }
}
