// What a hostile member signs: whatever its key can, and what no key may. It draws from the seed, so that a run is repeated with all
// its lies.
import { compareBytes, concat, sha256, unhex, utf8 } from '../../protocols/bytes.js'
import { chuteSubject, creationTime, instanceSubject, secretSubject } from '../../protocols/chute.js'
import type { Clock } from '../../protocols/clock.js'
import { type SignedRecord, seal } from '../../protocols/envelope.js'
import { highestAfter } from '../../protocols/epochs.js'
import { apSigner, type Signer } from '../../protocols/keys.js'
import { type Body, isKind } from '../../protocols/kinds.js'
import {
  DENIED_BYTES,
  MAX_AWAY,
  MAX_BOOT,
  MAX_GENERATION,
  MAX_OF_SIGNER,
  MAX_RESERVED,
  MAX_SEQUENCE,
  UNKNOWN_HISTORY,
} from '../../protocols/limits.js'
import { writePrefix } from '../../protocols/neighbourhood.js'
import type { Placed } from '../../protocols/placement.js'
import type { Sign } from '../../protocols/refutation.js'
import { admit } from '../../protocols/ticket.js'
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
const FLOODS = {
  lease: MAX_RESERVED,
  'of-tomorrow': UNKNOWN_HISTORY,
  settings: MAX_OF_SIGNER.settings,
  statement: MAX_OF_SIGNER.statement,
  claim: MAX_OF_SIGNER.claim,
} as const

/** A sign that no AP ever gives. */
const ABSURD: Sign = { boot: MAX_BOOT, sequence: MAX_SEQUENCE }

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
    switch (random.int(20)) {
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
        return sign(random.pick(['forget', 'drain']), random.pick([other, by.publicKey]), { draining: true })
      case 9:
        return this.asPublisher(ap, by)
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
      case 14:
      case 15:
        return this.member(ap, by)
      case 16:
        return sign('origin', outlook.chutes[0]?.key ?? chute, {})
      case 17: {
        const subject = concat(outlook.chutes[0]?.key ?? chute, other)
        return sign('share', subject, { secrets: random.bytes(32), ephemeral: random.bytes(32), box: random.bytes(48) })
      }
      case 18: {
        const body = { role: random.pick(['ap', 'admin']), uses: 100, seed: random.bytes(32), expires: 0 }
        return sign('grant', madeUp(random.int(MADE_UP)).publicKey, body)
      }
      default:
        return this.replay(ap)
    }
  }

  /** Another name, and labels that it does not have; or that it was let in by a ticket that nobody granted. */
  private member(ap: Ap, by: Signer): SignedRecord | undefined {
    const { random } = this
    const own = ap.ledgerStore.ledger.history('member', by.publicKey)[0]
    const forge = () => admit(madeUp(random.int(MADE_UP)), this.world.mesh, by.publicKey, [EPOCH, 0])
    const admission = random.chance(0.2) ? forge() : (own?.body.admission ?? forge())
    const name = random.pick([this.host.build.name, random.pick(this.others()).build.name, 'mine'])
    const labels = random.pick([{}, { site: 'attic' }, { site: 'home' }, { site: 'home', role: 'all' }])
    return this.seal('member', by.publicKey, { name, labels, admission }, by)
  }

  /** What a publisher may sign: of a chute of its own that is like another's, or of the other's. */
  private asPublisher(ap: Ap, by: Signer): SignedRecord | undefined {
    const { random } = this
    const deployment = random.pick(ap.ledgerStore.ledger.records().filter((record) => isKind(record, 'deployment')))
    if (deployment === undefined) return undefined
    const { creation } = deployment.body
    const name = 'mine'
    const subject = random.pick([chuteSubject(by.publicKey, name), deployment.subject])
    switch (random.int(4)) {
      case 0:
        return this.seal('deployment', subject, deployment.body, by)
      case 1:
        return this.seal('wanted', subject, { creation, desired: 'stopped', restarts: random.int(100) }, by)
      case 2:
        return this.seal('removal', subject, { creation }, by)
      default: {
        const sealed = { value: random.bytes(40), ephemeral: random.bytes(32), keys: [] }
        return this.seal('secret', secretSubject(by.publicKey, name, 'password'), { creation, sealed }, by)
      }
    }
  }

  /**
   * Votes on an exclusive chute, as one that votes or does not: for others than honest ones would pick; for the same ones again, as often
   * as they can change; or so many that one that it gave has no room any more.
   */
  votes(ap: Ap): SignedRecord[] {
    const { random } = this
    const { electorates, membership } = ap.outlook
    const seats = [...electorates]
    const own = seats.filter(([, { voters }]) => voters.some((key) => compareBytes(key, this.key) === 0))
    const seat = random.pick(own.length > 0 && random.chance(0.8) ? own : seats)
    if (seat === undefined) return []
    const [chute, { generation, voters }] = seat
    const isMember = (key: Uint8Array) =>
      [...membership.members.values()].some((one) => compareBytes(one.key, key) === 0)
    const stay = random.chance(0.8) ? voters.filter(isMember) : [this.key]
    const others = [...this.world.hosts.map(({ signer }) => signer), madeUp(random.int(MADE_UP))]
      .map(({ publicKey }) => publicKey)
      .filter((key) => !stay.some((one) => compareBytes(one, key) === 0))
    const picked = [...stay, ...random.shuffled(others)].slice(0, random.pick([voters.length, voters.length, 1, 3, 5]))
    const forced = random.chance(0.1)
    const vote = (of: number, whom: readonly Uint8Array[]) =>
      this.seal('voters', unhex(chute), { generation: of, voters: whom, forced })
    const generations = Array.from({ length: MAX_GENERATION }, (_, n) => n + 1)
    switch (random.int(4)) {
      case 0:
        return generations.map((n) => vote(n, voters))
      case 1:
        return [0, ...generations].map(() => vote(Math.max(1, generation), picked))
      default:
        return generation < MAX_GENERATION ? [vote(generation + 1, picked)] : []
    }
  }

  /** That it heard nothing of another AP since its latest sign, as a watcher would say it; or since one that it never gave. */
  private accusation(ap: Ap, other: string): Body<'statement'> {
    const { random } = this
    const { members } = ap.outlook.membership
    const keys = ap.roster.watchers(other).flatMap((id) => members.get(id)?.key ?? [])
    const watchers = random.chance(0.8) ? sha256(...keys.sort(compareBytes)).slice(0, 16) : random.bytes(16)
    const sign = random.pick<Sign>([ABSURD, ABSURD, ap.roster.lastSign(other), { boot: 1, sequence: random.int(1000) }])
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
    const kind = random.pick(Object.keys(FLOODS) as (keyof typeof FLOODS)[])
    return Array.from({ length: FLOODS[kind] + 20 }, (_, i) => {
      switch (kind) {
        case 'settings':
          return this.seal(kind, writePrefix(i.toString(2).padStart(9, '0')), { split: true })
        case 'statement':
          return this.seal(kind, random.bytes(32), {
            ...ABSURD,
            silence: i,
            probes: 9,
            heard: true,
            watchers: random.bytes(16),
          })
        case 'claim':
          return this.seal(kind, instanceSubject(random.bytes(20), i), { epoch: 1, cause: 'mine' })
        default:
          return this.seal(kind, random.bytes(24), { what: i })
      }
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

  private get key(): Uint8Array {
    return this.host.signer.publicKey
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
