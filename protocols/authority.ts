// Who may publish what, and who may say so: a view over grants and revocations that comes out the same on every AP. It
// believes a record or does not; it never takes one out of the ledger.
import { equalBytes, hex } from './bytes.js'
import type { ChuteSpec } from './deployment.js'
import { compareRecords, type SignedRecord } from './envelope.js'
import type { Body, RecordOf } from './kinds.js'
import type { Ledger } from './ledger.js'
import { MAX_CHAIN, MAX_STANDINGS } from './limits.js'
import { NO_RIGHTS, type Rights, whyNotAllowed } from './policy.js'
import { remembered } from './view.js'

type Grant = RecordOf<'grant'>
type Revocation = RecordOf<'revocation'>
export type Scope = NonNullable<Body<'grant'>['scope']>

/**
 * One way in which a key came to what it may: a chain of grants that begins at the mesh key. A key has as many as there are
 * admins who granted it something. What it may by one of them, every link of the chain allows: so none can widen what the
 * one above allows, and a link that says more than it can give still gives what it can.
 */
export interface Standing {
  readonly key: Uint8Array
  readonly role: 'admin' | 'publisher'
  /** From the mesh key down; none for the mesh key itself. */
  readonly chain: readonly Grant[]
  /** Who granted it. */
  readonly above: Standing | undefined
  /** By those above it. Of a key that was revoked only what each of them lists counts. */
  readonly revocations: readonly { readonly by: Standing; readonly record: Revocation }[]
}

/** A grant's own time, within which what it allows can be done. */
const isInForce = ({ body }: Grant, atMs: number): boolean =>
  (body.from ?? 0) <= atMs && (body.expires === 0 || atMs <= body.expires)

const isListed = ({ body }: Revocation, what: Uint8Array): boolean => {
  for (let at = 0; at < body.keep.length; at += 32) {
    if (equalBytes(body.keep.subarray(at, at + 32), what)) return true
  }
  return false
}

const isVoid = ({ revocations }: Standing, record: SignedRecord): boolean =>
  revocations.some((revocation) => !isListed(revocation.record, record.hash))

/**
 * The grants whose times bind what a key signs. Who revokes a key and lets something of it stay vouches for that: what binds it
 * then are the times of who revoked, not those of the key that is no more.
 */
function bindingOn({ revocations, chain }: Standing): readonly Grant[] {
  const [highest] = [...revocations].sort((a, b) => a.by.chain.length - b.by.chain.length)
  if (highest === undefined) return chain
  return bindingOn(highest.by)
}

const REVOKED = 'the key was revoked'
const NO_GRANT = 'its publisher has no grant'

/** Why a record that a key signed does not count by one of its standings, though all it says were allowed. */
const whyNotBy = (standing: Standing, record: SignedRecord, atMs: number): string | undefined =>
  isVoid(standing, record) ? REVOKED : whyOver(standing, atMs)

function whyOver(standing: Standing, atMs: number): string | undefined {
  const over = bindingOn(standing).find((grant) => !isInForce(grant, atMs))
  if (over === undefined) return undefined
  const { from = 0, expires } = over.body
  return from > atMs
    ? `its grant begins at ${new Date(from).toISOString()}`
    : `its grant ran out at ${new Date(expires).toISOString()}`
}

/** `web-*` is what begins with `web-`, `*` is everything, anything else is itself. */
const matches = (pattern: string, text: string): boolean =>
  pattern.endsWith('*') ? text.startsWith(pattern.slice(0, -1)) : pattern === text

function foreignName({ body: { scope } }: Grant, name: string): string | undefined {
  if (scope?.chutes === undefined || scope.chutes.some((pattern) => matches(pattern, name))) return undefined
  return `its grant is for chutes called ${scope.chutes.join(', ')}`
}

const EVERY_RIGHT: Rights = ['*']
const rightsIn = ({ body }: Grant): Rights => body.scope?.rights ?? NO_RIGHTS

/** What some link of a chain does not allow, the lowest first: that is the one a publisher knows of. */
const objectionOf = ({ chain }: Standing, to: (grant: Grant) => string | undefined): string | undefined =>
  chain.toReversed().flatMap((grant) => to(grant) ?? [])[0]

/** The patterns for what both of two lists of them are for; undefined is for everything. */
function common(above: readonly string[] | undefined, below: readonly string[] | undefined): string[] | undefined {
  if (above === undefined || below === undefined) return [...(above ?? below ?? ['*'])]
  const isWithin = (inner: string, outer: string) =>
    outer.endsWith('*') ? inner.replace(/\*$/, '').startsWith(outer.slice(0, -1)) : inner === outer
  const both = below.flatMap((b) => above.flatMap((a) => (isWithin(b, a) ? [b] : isWithin(a, b) ? [a] : [])))
  return [...new Set(both)]
}

const least = (a: number | undefined, b: number | undefined): number | undefined =>
  a === undefined || b === undefined ? (a ?? b) : Math.min(a, b)

/** What all the links of a chain together allow: for people. `expires` is 0 where no link ends. */
export function whatItMay(standing: Standing): Scope & { from: number; expires: number } {
  const { chain } = standing
  const times = bindingOn(standing).map(({ body }) => body)
  const ends = times.flatMap(({ expires }) => (expires === 0 ? [] : [expires]))
  const scopes = chain.map(({ body }) => body.scope ?? {})
  return {
    chutes: scopes.reduce<string[] | undefined>((all, { chutes }) => common(all, chutes), undefined),
    labels: Object.assign({}, ...scopes.map(({ labels }) => labels)),
    cpu: scopes.reduce<number | undefined>((all, { cpu }) => least(all, cpu), undefined),
    memory: scopes.reduce<number | undefined>((all, { memory }) => least(all, memory), undefined),
    disk: scopes.reduce<number | undefined>((all, { disk }) => least(all, disk), undefined),
    instances: scopes.reduce<number | undefined>((all, { instances }) => least(all, instances), undefined),
    rights: scopes.reduce<string[] | undefined>((all, { rights = [] }) => common(all, rights), undefined),
    from: Math.max(0, ...times.map(({ from = 0 }) => from)),
    expires: ends.length === 0 ? 0 : Math.min(...ends),
  }
}

export class Authority {
  /** By hex of the key; the shortest chains first. */
  private readonly standings = new Map<string, Standing[]>()
  private readonly boundaries: readonly number[]

  constructor(
    grants: readonly Grant[],
    private readonly revocations: readonly Revocation[],
    meshKey: Uint8Array,
  ) {
    const given = groupBy(grants.filter(isForKey), ({ signer }) => hex(signer))
    const against = groupBy(revocations, ({ signer, subject }) => hex(signer) + hex(subject))
    const found: Standing[] = [{ key: meshKey, role: 'admin', chain: [], above: undefined, revocations: [] }]
    // A queue that grows while it is read: breadth first.
    for (const above of found) {
      if (!this.add(above) || above.role !== 'admin' || above.chain.length === MAX_CHAIN) continue
      const bySubject = groupBy(given.get(hex(above.key)) ?? [], ({ subject }) => hex(subject))
      const newest = [...bySubject.values()].flatMap((all) => all.find((grant) => !isVoid(above, grant)) ?? [])
      for (const grant of newest.sort(compareRecords)) {
        const key = grant.subject
        const ancestors = lineOf(above)
        if (ancestors.some((other) => equalBytes(other.key, key))) continue
        const revoked = ancestors.flatMap((by) => {
          const all = against.get(hex(by.key) + hex(key)) ?? []
          const record = all.find((one) => whyNotBy(by, one, one.clock[0]) === undefined)
          return record === undefined ? [] : [{ by, record }]
        })
        const { role } = grant.body as { role: Standing['role'] }
        found.push({ key, role, chain: [...above.chain, grant], above, revocations: revoked })
      }
    }
    const times = [...this.standings.values()].flat().flatMap(({ chain }) => chain.at(-1)?.body ?? [])
    this.boundaries = times.flatMap(({ from = 0, expires }) => [from, expires + 1]).filter((at) => at > 1)
  }

  // Many admins that grant each other everything make more chains than atoms. Of those that begin with one grant of the mesh
  // key the shortest few count, so that who makes too many crowds out nobody but those below the same admin.
  private add(standing: Standing): boolean {
    const id = hex(standing.key)
    const known = this.standings.get(id) ?? []
    const isSameBranch = (other: Standing) => other.chain[0] === standing.chain[0]
    if (known.filter(isSameBranch).length === MAX_STANDINGS) return false
    this.standings.set(id, [...known, standing])
    return true
  }

  of(key: Uint8Array): readonly Standing[] {
    return this.standings.get(hex(key)) ?? []
  }

  /** Every standing but that of the mesh key. */
  all(): Standing[] {
    return [...this.standings.values()].flat().filter(({ chain }) => chain.length > 0)
  }

  /** Changes whenever a grant begins or ends: what is asked about now may have another answer then. */
  era(nowMs: number): number {
    return this.boundaries.filter((at) => at <= nowMs).length
  }

  /** True for a key that may grant, revoke, invite and forget at that time. */
  isAdmin(key: Uint8Array, atMs: number): boolean {
    return this.of(key).some(
      (standing) =>
        standing.role === 'admin' && standing.revocations.length === 0 && whyOver(standing, atMs) === undefined,
    )
  }

  /**
   * True where a record was signed by who was an admin then: so an invitation outlives the grant of who invited. (A clock can
   * be set back; whom one does not trust one revokes, which no clock can undo.)
   */
  wasByAdmin(record: SignedRecord): boolean {
    return this.of(record.signer).some(
      (standing) => standing.role === 'admin' && whyNotBy(standing, record, record.clock[0]) === undefined,
    )
  }

  /** True where one who stands above a key signed that record, or the key has no standing and any admin did. */
  isAbove(signer: Uint8Array, key: Uint8Array): boolean {
    const standings = this.of(key)
    if (standings.length === 0) return this.of(signer).some(({ role }) => role === 'admin')
    return standings.some(
      ({ above }) => above !== undefined && lineOf(above).some((one) => equalBytes(one.key, signer)),
    )
  }

  /**
   * True for what was signed by an AP's key that an admin revoked, and not listed. APs have no chain of grants: as any admin
   * can forget them, any can revoke them.
   */
  isVoidOfAp(record: SignedRecord): boolean {
    if (this.of(record.signer).length > 0) return false
    const own = this.revocations.filter(({ subject }) => equalBytes(subject, record.signer))
    return own.some((revocation) => this.wasByAdmin(revocation) && !isListed(revocation, record.hash))
  }

  /** True where an admin revoked the ticket by which an AP came in, and did not list the AP. A key that has standings is no ticket's. */
  isVoidAdmission(ticket: Uint8Array, ap: Uint8Array): boolean {
    if (this.of(ticket).length > 0) return false
    const own = this.revocations.filter(({ subject }) => equalBytes(subject, ticket))
    return own.some((revocation) => this.wasByAdmin(revocation) && !isListed(revocation, ap))
  }

  /** True where revocations leave nothing of a record by any standing of its signer. */
  isVoid(record: SignedRecord): boolean {
    const standings = this.of(record.signer)
    return standings.length > 0 && standings.every((standing) => isVoid(standing, record))
  }

  /** True where a record about a running chute counts now by a standing of its signer. */
  counts(record: SignedRecord, nowMs: number): boolean {
    return this.of(record.signer).some((standing) => whyNotBy(standing, record, nowMs) === undefined)
  }

  /** The rights that a key holds now by one standing or another. */
  rightsOf(key: Uint8Array, nowMs: number): Rights {
    const standings = this.of(key).filter(({ revocations }) => revocations.length === 0)
    const now = standings.filter((standing) => whyOver(standing, nowMs) === undefined)
    return [...new Set(now.flatMap((one) => (one.chain.length === 0 ? EVERY_RIGHT : (whatItMay(one).rights ?? []))))]
  }

  /** By which standings of its publisher a chute may be there now, or why by none. */
  judge(record: SignedRecord, name: string, spec: ChuteSpec, nowMs: number): Standing[] | string {
    const standings = this.of(record.signer)
    const whys = standings.map(
      (standing) =>
        whyNotBy(standing, record, nowMs) ??
        objectionOf(standing, (grant) => foreignName(grant, name) ?? whyNotAllowed(spec, rightsIn(grant))) ??
        // What nobody may have not even the mesh key has.
        whyNotAllowed(spec, EVERY_RIGHT),
    )
    const good = standings.filter((_, i) => whys[i] === undefined)
    return good.length > 0 ? good : (whys[0] ?? NO_GRANT)
  }

  /** Why a key can publish nothing by that name now, whatever it were. */
  whyNotPublish(key: Uint8Array, name: string, nowMs: number): string | undefined {
    const whys = this.of(key).map((standing) => {
      if (standing.revocations.length > 0) return REVOKED
      return whyOver(standing, nowMs) ?? objectionOf(standing, (grant) => foreignName(grant, name))
    })
    return whys.includes(undefined) ? undefined : (whys[0] ?? NO_GRANT)
  }
}

/** With `uses` a grant is a ticket, which others redeem; an AP is let in by nothing else. */
const isForKey = ({ body }: Grant): boolean => body.uses === undefined && body.role !== 'ap'

/** A standing and all above it, up to the mesh key. */
const lineOf = (standing: Standing): Standing[] =>
  standing.above === undefined ? [standing] : [...lineOf(standing.above), standing]

function groupBy<T>(items: readonly T[], keyOf: (item: T) => string): Map<string, T[]> {
  const groups = new Map<string, T[]>()
  for (const item of items) {
    const group = groups.get(keyOf(item))
    if (group === undefined) groups.set(keyOf(item), [item])
    else group.push(item)
  }
  return groups
}

/** What each key may, by the records whose time has come. */
export function authorityOf(ledger: Ledger, meshKey: Uint8Array, nowMs: number): Authority {
  const inputs = [hex(meshKey), ledger.stamp('grant', nowMs), ledger.stamp('revocation', nowMs)]
  return remembered(ledger, 'authority', inputs, () => {
    // Within a register newest first, as the ledger gives them.
    return new Authority(ledger.inForce('grant', nowMs), ledger.inForce('revocation', nowMs), meshKey)
  })
}
