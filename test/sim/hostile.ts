// A member that turned. Its node goes on as before, but what it signs and says beside that are lies (lies.ts), and so is what it says on
// its connections: pulses, answers to probes, answers of a voter. Only its syncs are honest, since what they bring is signed.
import { apId, hex } from '../../protocols/bytes.js'
import type { SignedRecord } from '../../protocols/envelope.js'
import type { LeaseAnswer } from '../../protocols/leases.js'
import { MAX_BOOT } from '../../protocols/limits.js'
import type { Sign } from '../../protocols/refutation.js'
import type { Ap } from './ap.js'
import type { Host } from './host.js'
import { Lies } from './lies.js'
import type { Message, ProbeAnswer } from './mesh.js'
import type { Random } from './random.js'
import type { World } from './world.js'

/** So many of a mesh are hostile at most: fewer than a majority of anybody's watchers. */
export const hostileOf = (aps: number): number => (aps >= 6 ? 2 : aps >= 4 ? 1 : 0)

/** A number that is nowhere near any epoch, or wait, that there can be. */
const ABSURD = 2 ** 50

/**
 * How it ends: when all is healed it is an honest AP again, or an admin forgets it, and it lies on. `lies-on`: it is a member that lies to
 * the end.
 */
export type Fate = 'repents' | 'is-forgotten' | 'lies-on'

export class Hostile {
  private readonly random: Random
  private readonly lies: Lies
  /** By so much what it says of itself is ahead of the boots and sequences that its node counts. */
  private jump: Sign = { boot: 0, sequence: 0 }

  constructor(
    private readonly world: World,
    private readonly host: Host,
    private readonly healed: number,
    private readonly fate: Fate,
  ) {
    this.random = world.random.fork(`hostile ${host.index}`)
    this.lies = new Lies(world, host, this.random.fork('lies'))
    host.isHostile = true
    host.fate = fate
  }

  start(): void {
    const { scheduler } = this.world
    if (this.fate === 'repents') scheduler.at(this.healed, () => this.repent())
    this.goOn()
    if (this.random.chance(0.4)) scheduler.after(this.random.between(0, 20_000), () => this.flood())
  }

  private goOn(): void {
    const { scheduler } = this.world
    scheduler.after(this.random.between(100, 1500), () => {
      if (this.fate === 'repents' && scheduler.now >= this.healed) return
      const ap = this.running()
      if (ap !== undefined) this.act(ap)
      this.goOn()
    })
  }

  private running(): Ap | undefined {
    const { ap, isPaused } = this.host
    return isPaused ? undefined : ap
  }

  private act(ap: Ap): void {
    ap.mesh.twist ??= (message) => this.twist(message)
    this.world.scheduler.touch()
    const what = this.random.int(11)
    if (what < 6) this.publish(ap, this.lies.record(ap))
    else if (what < 9) this.publish(ap, this.lies.beacon(ap, this.sign(ap)))
    else if (what < 10) this.askForLease(ap)
    else for (const vote of this.lies.votes(ap)) this.publish(ap, vote)
  }

  private publish(ap: Ap, lie: SignedRecord | undefined): void {
    if (lie === undefined) return
    this.world.tell(this.host, 'lies', { kind: lie.kind, subject: lie.subject })
    if (lie.kind === 'beacon') ap.mesh.publishBeacon(lie)
    else ap.mesh.publishRecord(lie)
  }

  private flood(): void {
    const ap = this.running()
    if (ap === undefined) return
    this.world.scheduler.touch()
    for (const record of this.lies.flood()) this.publish(ap, record)
  }

  /** A sign of its own, now and then of a boot that never was. */
  private sign(ap: Ap): Sign {
    const { random } = this
    const { boot, sequence } = this.jump
    if (random.chance(0.1)) this.jump = { boot: boot + random.pick([1, 2 ** 20]), sequence: 0 }
    else if (random.chance(0.2)) this.jump = { boot, sequence: sequence + random.int(2 ** 20) }
    return this.jumped(ap.lifeSign())
  }

  private jumped({ boot, sequence }: Sign): Sign {
    return { boot: Math.min(MAX_BOOT / 2, boot + this.jump.boot), sequence: sequence + this.jump.sequence }
  }

  // --- on connections -----------------------------------------------------------------------------------------------

  private twist(message: Message): Message | undefined {
    const { random } = this
    switch (message.is) {
      case 'pulse':
        if (random.chance(0.1)) return undefined
        return { ...message, sign: this.jumped(message.sign), ledger: this.twistDigest(message.ledger) }
      case 'probed':
        return { ...message, sign: this.twistProbe(message.sign) }
      case 'leased':
        if (random.chance(0.1)) return undefined
        return { ...message, answers: message.answers.map((answer) => this.twistLease(answer)) }
      default:
        return message
    }
  }

  private twistDigest(digest: Uint8Array): Uint8Array {
    return this.random.chance(0.1) ? this.random.bytes(16) : digest
  }

  /** That it reached an AP which it did not, or the other way round. */
  private twistProbe(answer: ProbeAnswer): ProbeAnswer {
    if (this.random.chance(0.5)) return 'unreached'
    return answer === 'unreached' ? { boot: 1, sequence: this.random.int(1000) } : this.jumped(answer)
  }

  /** Mostly it grants whatever it is asked for: that is how two can come to hold one lease. */
  private twistLease(answer: LeaseAnswer): LeaseAnswer {
    const { random } = this
    if (random.chance(0.7)) return { granted: true }
    if (random.chance(0.3)) return answer
    const reason = random.pick(['unknown', 'quiet', 'held', 'superseded'] as const)
    return { granted: false, reason, epoch: random.pick([0, ABSURD]), wait: random.pick([0, ABSURD]) }
  }

  /** Asks all voters for the lease of what others hold, and gives back what is not its own. */
  private askForLease(ap: Ap): void {
    const { outlook } = ap
    const placed = this.random.pick(outlook.placed.filter(({ chute }) => chute.spec.exclusive !== undefined))
    if (placed === undefined) return
    const { instance, claim, chute } = placed
    const { voters, generation } = outlook.electorates.get(hex(chute.key))!
    const epoch = this.random.pick([this.lies.highest(placed), (claim?.body.epoch ?? 0) + 1, ABSURD])
    const releases = claim === undefined ? [] : [{ instance, epoch: claim.body.epoch }]
    for (const voter of voters)
      void ap.mesh.callVoter(apId(voter), { asks: [{ instance, generation, epoch }], releases })
  }

  /**
   * The troubles are over, and it is an honest AP again: its node starts anew, beyond all signs that it gave, and knows nothing of what it
   * granted.
   */
  private repent(): void {
    const { host } = this
    host.kill()
    const boot = host.disk.read<number>('boot') ?? 0
    host.disk.provide([], { boot: this.jumped({ boot, sequence: 0 }).boot })
    host.start()
  }
}
