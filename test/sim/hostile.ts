// A member that turned: beside what its node does it sends whatever its key can sign, and what others signed once more. It
// draws from the seed, so that a run is repeated with all its lies.

import { concat, sha256, utf8 } from '../../protocols/bytes.js'
import { chuteSubject, creationTime, instanceSubject } from '../../protocols/chute.js'
import { type Clock, compareClocks } from '../../protocols/clock.js'
import { type SignedRecord, seal } from '../../protocols/envelope.js'
import { highestAfter } from '../../protocols/epochs.js'
import { apSigner, type Signer } from '../../protocols/keys.js'
import { MAX_BOOT, MAX_SEQUENCE } from '../../protocols/limits.js'
import { writePrefix } from '../../protocols/neighbourhood.js'
import type { Ap } from './ap.js'
import { EPOCH, type Host } from './host.js'
import type { Random } from './random.js'
import type { World } from './world.js'

/** So many of a mesh are hostile at most: fewer than a majority of anybody's watchers. */
export const hostileOf = (aps: number): number => (aps >= 6 ? 2 : aps >= 4 ? 1 : 0)

/**
 * So far its clock is ahead of the true time. Of those whose clock is ahead of others' it could push on what they sign until these have to
 * wait for it: what that does is no promise (README.md, honest limits).
 */
const LEAD = 40_000

/** Keys that it makes up, once for all runs: making one costs a millisecond. */
const made = new Map<number, Signer>()
function madeUp(n: number): Signer {
  const signer = made.get(n) ?? apSigner(sha256(utf8(`made up ${n}`)))
  made.set(n, signer)
  return signer
}
const MADE_UP = 24

export class Hostile {
  private readonly random: Random
  /** What it once heard. */
  private readonly heard: SignedRecord[] = []

  constructor(
    private readonly world: World,
    private readonly host: Host,
    private readonly until: number,
  ) {
    this.random = world.random.fork(`hostile ${host.index}`)
    host.isHostile = true
  }

  start(): void {
    const { scheduler } = this.world
    scheduler.after(this.random.between(100, 1500), () => {
      if (scheduler.now >= this.until) return
      this.act()
      this.start()
    })
  }

  private act(): void {
    const { ap } = this.host
    if (!ap?.isRunning || this.host.isPaused) return
    this.world.scheduler.touch()
    const lie = this.lie(ap)
    if (lie === undefined) return
    this.world.tell(this.host, 'lies', { kind: lie.kind, subject: lie.subject })
    if (lie.kind === 'beacon') ap.mesh.publishBeacon(lie)
    else ap.mesh.publishRecord(lie)
  }

  private lie(ap: Ap): SignedRecord | undefined {
    const { random, world } = this
    const { outlook } = ap
    const others = world.hosts.filter((host) => host !== this.host)
    const other = random.pick(others).signer.publicKey
    const by = random.chance(0.3) ? madeUp(random.int(MADE_UP)) : this.host.signer
    const chute = sha256(random.bytes(8)).slice(0, 20)
    const sign = (kind: string, subject: Uint8Array, body: object, clock: Clock = this.clock()) =>
      seal(by, world.mesh, clock, kind, subject, body)
    switch (random.int(14)) {
      case 0:
      case 1:
      case 2: {
        const absurd = random.chance(0.7)
        const [boot, sequence] = absurd ? [MAX_BOOT, MAX_SEQUENCE] : [1 + random.int(3), random.int(1000)]
        const body = { boot, sequence, silence: 5000, probes: 9, heard: true, watchers: random.bytes(16) }
        return sign('statement', other, body)
      }
      case 3:
      case 4: {
        if (outlook.placed.length === 0) return undefined
        const { subject, chute: real, copy } = random.pick(outlook.placed)
        if (real.spec.exclusive !== undefined || typeof copy !== 'number') return undefined
        const clock = this.clock()
        const epoch = random.chance(0.5) ? 2 ** 48 : highestAfter(0, clock[0] - creationTime(real.id.creation))
        return sign('claim', subject, { epoch, cause: 'mine' }, clock)
      }
      case 5:
        return sign('claim', instanceSubject(chute, 0), { epoch: 2 ** 40, cause: 'mine' })
      case 6:
        return sign('grant', by.publicKey, { role: 'admin', expires: 0 })
      case 7:
        return sign('revocation', random.pick(world.publishers).publicKey, { keep: new Uint8Array() })
      case 8:
        return sign(random.pick(['forget', 'drain']), other, { draining: true })
      case 9:
        return sign('deployment', chuteSubject(by.publicKey, 'mine'), {})
      case 10:
        return sign('settings', writePrefix(random.pick(['', '0', '01'])), { split: true })
      case 11:
        return sign('voters', outlook.chutes[0]?.key ?? chute, { generation: 1, voters: [by.publicKey], forced: true })
      case 12:
        return sign(random.pick(['lease', 'of-tomorrow']), concat(chute, random.bytes(4)), { what: random.bytes(40) })
      default:
        return this.replay(ap)
    }
  }

  /** Something of another AP that it heard before: a beacon, or a record. */
  private replay(ap: Ap): SignedRecord | undefined {
    const { random } = this
    const beacons = [...ap.outlook.candidates.keys()].flatMap((id) => ap.roster.latestBeacon(id) ?? [])
    this.heard.push(
      ...random.shuffled(beacons).slice(0, 2),
      ...random.shuffled(ap.ledgerStore.ledger.records()).slice(0, 2),
    )
    return random.pick(this.heard)
  }

  /** As late as others heed, or long ago. */
  private clock(): Clock {
    const [early, late]: [Clock, Clock] = [
      [1 + this.random.int(1e6), 0],
      [EPOCH + Math.floor(this.world.scheduler.now) + LEAD, this.random.int(60_000)],
    ]
    return this.random.chance(0.2) ? early : compareClocks(late, early) > 0 ? late : early
  }
}
