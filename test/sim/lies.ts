// What a hostile member signs: whatever its key can, and what no key may. It draws from the seed, so that a run is repeated with all
// its lies.
import { compareBytes, concat, sha256, utf8 } from '../../protocols/bytes.js'
import { chuteSubject, creationTime, instanceSubject } from '../../protocols/chute.js'
import type { Clock } from '../../protocols/clock.js'
import { type SignedRecord, seal } from '../../protocols/envelope.js'
import { highestAfter } from '../../protocols/epochs.js'
import { apSigner, type Signer } from '../../protocols/keys.js'
import type { Body } from '../../protocols/kinds.js'
import {
  DENIED_BYTES,
  MAX_AWAY,
  MAX_BOOT,
  MAX_OF_SIGNER,
  MAX_RESERVED,
  MAX_SEQUENCE,
  UNKNOWN_HISTORY,
} from '../../protocols/limits.js'
import { writePrefix } from '../../protocols/neighbourhood.js'
import type { Placed } from '../../protocols/placement.js'
import type { Sign } from '../../protocols/refutation.js'
import type { Ap } from './ap.js'
import { CAPACITY, EPOCH, type Host } from './host.js'
import type { Random } from './random.js'
import type { World } from './world.js'

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
export const MADE_UP = 24

/** Kinds of which it signs more than a ledger keeps of one key. */
const FLOODS = [
  ['lease', MAX_RESERVED],
  ['of-tomorrow', UNKNOWN_HISTORY],
  ['settings', MAX_OF_SIGNER.settings],
] as const

export class Lies {
  /** What it once heard. */
  private readonly heard: SignedRecord[] = []

  constructor(
    private readonly world: World,
    private readonly host: Host,
    private readonly random: Random,
  ) {}

  /** A record that a ledger takes in, or should not. */
  record(ap: Ap): SignedRecord | undefined {
    const { random, world } = this
    const { outlook } = ap
    const victim = random.pick(this.others())
    const other = victim.signer.publicKey
    const by = random.chance(0.3) ? madeUp(random.int(MADE_UP)) : this.host.signer
    const chute = sha256(random.bytes(8)).slice(0, 20)
    const sign = (kind: string, subject: Uint8Array, body: object) => this.seal(kind, subject, body, by)
    switch (random.int(15)) {
      case 0:
      case 1:
      case 2:
        return sign('statement', other, this.accusation(ap, victim.id))
      case 3:
      case 4:
        return this.claim(ap, by)
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
      case 13: {
        const { boot } = ap.lifeSign()
        const kind = random.pick(['goodbye', 'alive'])
        return sign(kind, by.publicKey, { boot, sequence: random.int(1000), addresses: [] })
      }
      default:
        return this.replay(ap)
    }
  }

  /** That it heard nothing of another AP since its latest sign, as a watcher would say it; or since one that it never gave. */
  private accusation(ap: Ap, other: string): Body<'statement'> {
    const { random } = this
    const { members } = ap.outlook.membership
    const keys = ap.roster.watchers(other).flatMap((id) => members.get(id)?.key ?? [])
    const watchers = random.chance(0.8) ? sha256(...keys.sort(compareBytes)).slice(0, 16) : random.bytes(16)
    const absurd = { boot: MAX_BOOT, sequence: MAX_SEQUENCE }
    const sign = random.pick<Sign>([absurd, absurd, ap.roster.lastSign(other), { boot: 1, sequence: random.int(1000) }])
    return { ...sign, silence: 5000, probes: 9, heard: true, watchers }
  }

  /** That it holds what others do, out of turn, and without a lease. */
  private claim(ap: Ap, by: Signer): SignedRecord | undefined {
    const placed = this.random.pick(ap.outlook.placed.filter(({ copy }) => typeof copy === 'number'))
    if (placed === undefined) return undefined
    const clock = this.clock()
    const epoch = this.random.chance(0.3) ? 2 ** 48 : this.highest(placed, clock[0])
    return this.seal('claim', placed.subject, { epoch, cause: 'mine' }, by, clock)
  }

  /** The highest epoch that counts of an instance at a time. */
  highest({ chute, claim }: Placed, ms = this.clock()[0]): number {
    const generation = Math.floor((claim?.body.epoch ?? 0) / 2 ** 40)
    return highestAfter(generation, ms - creationTime(chute.id.creation))
  }

  /** What is not so of itself; or, now and then, of another AP. @param sign the next one that others heed */
  beacon(ap: Ap, sign: Sign): SignedRecord {
    const { random } = this
    const { placed, chutes } = ap.outlook
    const some = random.shuffled(placed).slice(0, 4)
    const power = () => random.pick([0, 1, 1000, 2 ** 40])
    const body: Body<'beacon'> = {
      ...sign,
      version: 'lies',
      denies: [random.bytes(DENIED_BYTES)],
      addresses: [`/ip4/192.0.2.${random.int(255)}/tcp/4010`],
      ...(random.chance(0.1) && { away: MAX_AWAY }),
      ...(random.chance(0.8) && {
        engine: { ...CAPACITY, cpu: power(), memory: 2 ** 20 * power(), local: random.chance(0.8) },
      }),
      instances: some.map(({ subject: instance, claim, chute }) => ({
        instance,
        epoch: random.pick([claim?.body.epoch ?? 0, 2 ** 48]),
        revision: chute.revision,
        state: random.pick(['running', 'running', 'waiting', 'failed'] as const),
        since: 0,
        ports: [],
      })),
      cannot: random.shuffled(placed).flatMap(({ subject: instance, chute }) => {
        const { revision } = chute
        return random.chance(0.3) ? [{ instance, revision, reason: 'no', until: Number.MAX_SAFE_INTEGER }] : []
      }),
      images: chutes.flatMap(({ spec }) => spec.services.flatMap(({ images }) => images.map(({ config }) => config))),
      packages: [],
      ledger: random.chance(0.5) ? ap.ledgerStore.ledger.digest() : random.bytes(16),
    }
    const subject = random.chance(0.2) ? random.pick(this.others()).signer : this.host.signer
    return this.seal('beacon', subject.publicKey, body)
  }

  /** More of one kind than a ledger keeps of one key. */
  flood(): SignedRecord[] {
    const { random } = this
    const [kind, bound] = random.pick(FLOODS)
    return Array.from({ length: bound + 20 }, (_, i) => {
      const isSettings = kind === 'settings'
      const subject = isSettings ? writePrefix(i.toString(2).padStart(9, '0')) : random.bytes(24)
      return this.seal(kind, subject, isSettings ? { split: true } : { what: i })
    })
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

  private others(): Host[] {
    return this.world.hosts.filter((host) => host !== this.host)
  }

  private seal(kind: string, subject: Uint8Array, body: object, by = this.host.signer, clock = this.clock()) {
    return seal(by, this.world.mesh, clock, kind, subject, body)
  }

  /** As late as others heed, or long ago. */
  private clock(): Clock {
    if (this.random.chance(0.2)) return [1 + this.random.int(1e6), 0]
    return [EPOCH + Math.floor(this.world.scheduler.now) + LEAD, this.random.int(60_000)]
  }
}
