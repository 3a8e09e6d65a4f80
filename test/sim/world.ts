// A simulated mesh: hosts, a network between them, the keys of those who act in it, and what is watched while it runs.
import { hex, sha256, utf8 } from '../../protocols/bytes.js'
import { open, type SignedRecord, seal } from '../../protocols/envelope.js'
import { MeshError } from '../../protocols/error.js'
import { apSigner, type Signer } from '../../protocols/keys.js'
import { type Body, checkKind } from '../../protocols/kinds.js'
import { meshIdOf } from '../../protocols/membership.js'
import { signMember } from '../../protocols/ticket.js'
import { type Build, EPOCH, Host } from './host.js'
import { Checks } from './invariants.js'
import type { Mutation } from './mutations.js'
import { Network } from './network.js'
import { Random } from './random.js'
import { Scheduler } from './scheduler.js'

// Making a key costs a millisecond, and which keys they are does not matter: runs share them, each in an order of its own.
const KEYS = 128
const pool = new Map<number, Signer>()
function pooled(n: number): Signer {
  const signer = pool.get(n) ?? apSigner(sha256(utf8(`simulated key ${n}`)))
  pool.set(n, signer)
  return signer
}

const FOUNDED = EPOCH - 86_400_000

export class World {
  readonly scheduler = new Scheduler()
  readonly random: Random
  readonly network: Network
  readonly checks: Checks
  readonly hosts: Host[] = []
  readonly owner: Signer
  readonly publishers: readonly Signer[]
  readonly mesh: Uint8Array
  /** Lines of what happened, where they are wanted. */
  readonly trace: string[] = []
  private readonly keys: Signer[]
  private readonly byId = new Map<string, Host>()
  private readonly checked = new WeakMap<Uint8Array, SignedRecord | MeshError>()

  constructor(
    seed: string,
    private readonly isTraced: boolean,
    readonly mutation: Mutation = {},
  ) {
    this.random = new Random(seed)
    this.network = new Network(this.scheduler, this.random.fork('network'))
    this.checks = new Checks(this)
    const order = this.random.fork('keys').shuffled(Array.from({ length: KEYS }, (_, n) => n))
    this.keys = order.map(pooled)
    this.owner = this.keys.pop()!
    this.publishers = [this.keys.pop()!, this.keys.pop()!]
    this.mesh = meshIdOf(this.meshKey)
  }

  get meshKey(): Uint8Array {
    return this.owner.publicKey
  }

  /** A new machine, without power and with an empty disk. */
  addHost(build: Build): Host {
    const host = new Host(this, this.hosts.length, this.keys.pop()!, build)
    this.hosts.push(host)
    this.byId.set(host.id, host)
    this.network.attach(host, build.bytesPerMs)
    return host
  }

  /** Makes members of hosts, as if they had joined yesterday. The first one founded the mesh, the second is an admin too. */
  found(hosts: readonly Host[]): void {
    const grant = (ticket: Signer, role: Body<'grant'>['role'], at: number) =>
      seal(this.owner, this.mesh, [FOUNDED + at, 0], 'grant', ticket.publicKey, { role, uses: 100, expires: 0 })
    const [forAdmins, forAps] = [this.keys.pop()!, this.keys.pop()!]
    const records: SignedRecord[] = [grant(forAdmins, 'admin', 1), grant(forAps, 'ap', 2)]
    for (const { publicKey } of this.publishers) {
      const body = { role: 'publisher', expires: 0 }
      records.push(seal(this.owner, this.mesh, [FOUNDED + 3, 0], 'grant', publicKey, body))
    }
    for (const [i, { signer, build }] of hosts.entries()) {
      const ticket = i === 0 ? this.owner : i === 1 ? forAdmins : forAps
      const about = { name: build.name, labels: { ...build.labels } }
      records.push(signMember(signer, ticket, this.mesh, [FOUNDED + (i === 0 ? 0 : 1000 + i), 0], about))
    }
    for (const host of hosts) {
      host.disk.provide(records, { boot: 1, clock: FOUNDED, peers: hosts.map(({ id }) => id) })
      this.checks.onFounded(records)
    }
  }

  hostOf(ap: string): Host {
    return this.byId.get(ap)!
  }

  nameOf(ap: string): string {
    return this.byId.get(ap)?.build.name ?? ap
  }

  /** What the ledger store does with bytes that come in; once for all APs, since it follows from the bytes alone. */
  check(bytes: Uint8Array): SignedRecord {
    let result = this.checked.get(bytes)
    if (result === undefined) {
      try {
        result = open(bytes, this.mesh)
        if (!this.mutation.trusts?.(result)) checkKind(result)
      } catch (error) {
        if (!(error instanceof MeshError)) throw error
        result = error
      }
      this.checked.set(bytes, result)
    }
    if (result instanceof MeshError) throw result
    return result
  }

  /** Bytes of an image, which follow from its digest. */
  sizeOf(config: string): number {
    return 256 * 1024 * (1 + (Number.parseInt(config.slice(0, 4), 16) % 24))
  }

  tell(host: Host | undefined, kind: string, fields: object): void {
    if (!this.isTraced) return
    const at = (this.scheduler.now / 1000).toFixed(3).padStart(8)
    const text = Object.entries(fields).map(([name, value]) => `${name}=${printable(value)}`)
    this.trace.push(`${at} ${(host?.build.name ?? '-').padEnd(5)} ${kind} ${text.join(' ')}`)
  }
}

function printable(value: unknown): string {
  if (value instanceof Uint8Array) return hex(value).slice(0, 12)
  return typeof value === 'object' ? JSON.stringify(value) : String(value)
}
