// What the local API answers: the shapes that scripts rely on, read off the AP's outlook. Changes nothing.
import { randomBytes } from 'node:crypto'
import { apId, equalBytes, hex } from '../../protocols/bytes.js'
import { membersThatFit } from '../../protocols/ceilings.js'
import { type Copy, chuteSubject, readChuteSubject } from '../../protocols/chute.js'
import { isChecked, resourcesOf } from '../../protocols/deployment.js'
import { type Barred, type Chute, copiesOf, instanceName } from '../../protocols/desired.js'
import { MeshError } from '../../protocols/error.js'
import { type RevisionState, revisionsOf } from '../../protocols/history.js'
import type { Body } from '../../protocols/kinds.js'
import { isDue } from '../../protocols/ledger.js'
import { MAX_GENERATION } from '../../protocols/limits.js'
import type { Candidate, Placed } from '../../protocols/placement.js'
import { asksOf, lackingRights } from '../../protocols/policy.js'
import { score } from '../../protocols/rendezvous.js'
import { whyNotPublish } from '../../protocols/submission.js'
import { successorsOf } from '../../protocols/successors.js'
import type { Ap } from '../ap.js'
import type { EngineInfo } from '../chutes/engine.js'
import type { Spread } from '../figures.js'
import { VERSION } from '../version.js'
import { grantsOf, inspectKey } from './grants.js'
import { doorWarnings, goodTickets, howItCame, ownerKeyIsHere } from './invites.js'
import { secretsFor } from './secrets.js'

export interface Status {
  ap: { id: string; name: string }
  mesh: string
  version: string
  state: string
  role: string | null
  /** How this AP came into the mesh, in a sentence, and whether it has the owner key. */
  origin: string | null
  ownerKey: boolean
  /** APs that ask this one to be let in. */
  requests: number
  /** Tickets that still let somebody in, and how many all together; until when the last of them does, null for ever. */
  tickets: { count: number; left: number; until: string | null }
  peers: number
  members: number
  /** The neighbourhood this AP is in: the prefix of its positions, empty where it is all of the mesh. */
  neighbourhood: { prefix: string; members: number }
  ledger: { records: number; digest: string }
  docker: { version: string } | null
  /** The registry of this AP, and what its packages take of the disk, in bytes. */
  registry: { address: string; blobs: number; bytes: number; max: number }
  /** What light chutes are built on here, by what they use, where that is another image than its default. */
  lightBases: Record<string, string>
  addresses: string[]
  /** Of this AP's watchers that are connected, how many hear it by datagram; the others hear it by stream. */
  datagrams: { watchers: number; heardBy: number }
  /** What this mesh can do for exclusive chutes, in a sentence. */
  exclusive: string
  /** What this AP has seen since it started: how soon deaths were noticed and instances ran elsewhere, and what lacked. */
  figures: {
    detectionMs: Spread
    migrationMs: Spread
    chutes: { chute: string; missingSeconds: number; duplicateSeconds: number }[]
  }
  /** What this AP takes the time to be: ISO 8601. */
  time: string
  warnings: string[]
}

export function status(ap: Ap): Status {
  const { membership, neighbourhoods } = ap.outlook
  const home = neighbourhoods.of(ap.id)
  const engine = ap.reconciler.engineInfo()
  const { packages } = ap.provision
  return {
    ap: { id: ap.id, name: ap.config.name },
    mesh: ap.mesh,
    version: VERSION,
    state: ap.state,
    role: membership.members.get(ap.id)?.role ?? null,
    origin: howItCame(ap, ap.id),
    ownerKey: ownerKeyIsHere(ap),
    requests: ap.asks.requests().length,
    tickets: goodTickets(ap),
    peers: ap.connected().length,
    members: membership.members.size,
    neighbourhood: { prefix: home?.prefix ?? '', members: home?.members.length ?? 0 },
    ledger: { records: ap.ledgerStore.ledger.size, digest: hex(ap.ledgerStore.ledger.digest()) },
    docker: engine === undefined ? null : { version: engine.version },
    registry: { address: packages.address, ...packages.usage(), max: ap.config.packagesMax },
    lightBases: ap.config.lightBases,
    addresses: ap.addresses(),
    datagrams: ap.datagrams(),
    exclusive: whatExclusiveMeans(ap),
    figures: {
      detectionMs: ap.figures.detection(),
      migrationMs: ap.figures.migration(),
      chutes: ap.outlook.chutes.map(({ id, key }) => ({ chute: id.name, ...ap.figures.of(hex(key)) })),
    },
    time: new Date(ap.ledgerStore.clock.now()).toISOString(),
    warnings: [
      ...ap.warnings(),
      ...doorWarnings(ap),
      ...openWarnings(engine),
      ...priorityWarnings(packages.whyUnyielding),
      ...waitingWarnings(ap),
    ],
  }
}

function whatExclusiveMeans(ap: Ap): string {
  const { size } = ap.outlook.membership.members
  const engine = ap.reconciler.engineInfo()
  const here =
    engine === undefined || engine.local
      ? ''
      : '; none runs on this AP, whose engine is on another machine or whose node is not run by root'
  if (size < 3) return `cannot be published: they need 3 APs to vote on who runs them, this mesh has ${size}${here}`
  if (size < 5) return `3 of the ${size} APs vote on each; it runs as long as 2 of those reach each other${here}`
  return `5 of the ${size} APs vote on each; it runs as long as 3 of those reach each other${here}`
}

const openWarnings = (engine: EngineInfo | undefined): string[] =>
  engine?.open === undefined ? [] : [`chutes can reach the services of this AP itself, such as ssh: ${engine.open}`]

const priorityWarnings = (why: string | undefined): string[] =>
  why === undefined ? [] : [`packages that leave this AP compete with what it routes: ${why}`]

function waitingWarnings(ap: Ap): string[] {
  return instances(ap)
    .filter(({ state }) => state === 'waiting' || state === 'failed')
    .map(({ instance, reason, state }) => `${instance} is ${state}: ${reason ?? 'no reason known'}`)
}

export interface ApRow {
  id: string
  name: string
  state: 'alive' | 'suspect' | 'dead' | 'left' | 'draining'
  role: string
  labels: Record<string, string>
  capacity: { cpus: number; memory: number }
  instances: number
  lastHeard: string | null
  /** Empty where all of the mesh is one. */
  neighbourhood: string
}

export function aps(ap: Ap): ApRow[] {
  const { candidates, placed, neighbourhoods } = ap.outlook
  const held = new Map<string, number>()
  for (const { holder } of placed) if (holder !== undefined) held.set(holder, (held.get(holder) ?? 0) + 1)
  return [...candidates].map(([id, { member, state, glimpse, beacon = glimpse }]) => ({
    id,
    name: member.name,
    state: state === 'alive' && member.draining ? 'draining' : state,
    role: member.role,
    labels: { ...member.labels },
    capacity: { cpus: (beacon?.engine?.cpu ?? 0) / 1000, memory: beacon?.engine?.memory ?? 0 },
    instances: held.get(id) ?? 0,
    lastHeard: ap.lastHeard(id),
    neighbourhood: neighbourhoods.of(id)?.prefix ?? '',
  }))
}

export interface ChuteRow {
  chute: string
  publisher: string
  revision: number
  wanted: number
  running: number
  healthy: number
  desired: Chute['desired']
}

export function chutes(ap: Ap): ChuteRow[] {
  const rows = instances(ap)
  const barred = ap.outlook.barred.filter((one) => isOfInterest(ap, one)).map(({ chute }) => chute)
  return [...ap.outlook.chutes, ...barred].map((chute) => {
    const ofChute = rows.filter((row) => row.chuteKey === hex(chute.key))
    const isUp = ({ state }: InstanceRow) => ['running', 'healthy', 'unhealthy'].includes(state)
    return {
      chute: chute.id.name,
      publisher: hex(chute.id.publisher),
      revision: chute.revision,
      wanted:
        ap.outlook.placed.filter((placed) => placed.chute === chute && !isForeignCopy(placed, ap)).length +
        beyond(ap).filter((one) => one.chute === chute).length,
      running: ofChute.filter(isUp).length,
      healthy: ofChute.filter(
        ({ state, hasHealthcheck }) => state === 'healthy' || (state === 'running' && !hasHealthcheck),
      ).length,
      desired: chute.desired,
    }
  })
}

export interface InstanceRow {
  chute: string
  instance: string
  ap: string | null
  apName: string | null
  state: 'waiting' | Body<'beacon'>['instances'][number]['state']
  epoch: number
  /** Why it was claimed with this epoch; null where nobody ever claimed it. */
  cause: string | null
  revision: number
  since: string | null
  reason: string | null
  /** How much has come of its package, or of the next revision's, in per cent; null where nothing is on its way. */
  fetched: number | null
  ports: { container: number; host: number; protocol: string }[]
  publisher: string
  chuteKey: string
  hasHealthcheck: boolean
}

/** Copies that are asked for and that their publisher may not have, with the reason. */
function beyond(ap: Ap): { chute: Chute; copy: Copy; why: string }[] {
  const { chutes, barred, membership } = ap.outlook
  const missing = (chute: Chute, allowed: readonly Copy[], why: string) =>
    copiesOf({ ...chute, limit: undefined }, membersThatFit(chute, membership.members))
      .filter((copy) => !allowed.includes(copy))
      .map((copy) => ({ chute, copy, why }))
  const limited = chutes.flatMap((chute) => (chute.limit ? missing(chute, chute.limit.copies, chute.limit.why) : []))
  const outcast = barred.filter((one) => isOfInterest(ap, one)).flatMap(({ chute, why }) => missing(chute, [], why))
  return [...limited, ...outcast]
}

// What strangers publish is nobody's business.
const isOfInterest = (ap: Ap, { chute }: Barred): boolean => ap.outlook.authority.of(chute.id.publisher).length > 0

/** One row for each wanted instance, and one for each copy that an AP reports beside it. */
export function instances(ap: Ap): InstanceRow[] {
  const { placed, candidates } = ap.outlook
  const rows: InstanceRow[] = []
  for (const item of placed) {
    if (isForeignCopy(item, ap)) continue
    const base = baseOf(item, ap)
    let isShown = false
    for (const [id, { beacon: heard, glimpse, state }] of candidates) {
      const beacon = heard ?? glimpse
      const report = beacon?.instances.find(({ instance }) => hex(instance) === item.instance)
      const isHolder = id === item.holder
      if (report === undefined || ((state === 'dead' || state === 'left') && !isHolder)) continue
      if (isHolder && report.epoch !== item.claim!.body.epoch) continue
      if (!isHolder && report.state === 'waiting') continue
      isShown ||= isHolder
      rows.push({
        ...base,
        ap: id,
        apName: ap.nameOf(id),
        state: report.state,
        epoch: report.epoch,
        revision: report.revision,
        since: new Date(report.since).toISOString(),
        reason: report.reason ?? null,
        fetched: report.fetched ?? null,
        ports: report.ports,
      })
    }
    if (isShown) continue
    const { holder, claim } = item
    rows.push({
      ...base,
      ap: holder ?? null,
      apName: holder === undefined ? null : ap.nameOf(holder),
      state: holder === undefined ? 'waiting' : 'starting',
      epoch: claim?.body.epoch ?? 0,
      revision: item.chute.revision,
      since: claim === undefined ? null : new Date(claim.clock[0]).toISOString(),
      reason: holder === undefined ? whyWaiting(item, ap) : null,
      fetched: null,
      ports: [],
    })
  }
  for (const { chute, copy, why } of beyond(ap)) {
    const nowhere = { ap: null, apName: null, state: 'waiting', epoch: 0, since: null, ports: [] } as const
    const base = baseOf({ chute, copy, claim: undefined }, ap)
    rows.push({
      ...{ ...base, ...nowhere, ports: [], fetched: null, revision: chute.revision },
      reason: `may not be placed: ${why}`,
    })
  }
  return rows
}

const baseOf = ({ chute, copy, claim }: Pick<Placed, 'chute' | 'copy' | 'claim'>, ap: Ap) => ({
  cause: claim?.body.cause ?? null,
  chute: chute.id.name,
  instance: instanceName(chute.id.name, copy, (key) => ap.nameOf(apId(key))),
  publisher: hex(chute.id.publisher),
  chuteKey: hex(chute.key),
  hasHealthcheck: chute.spec.services.some(isChecked),
})

// `everywhere` asks every AP, but a copy that its AP does not fit is nobody's loss.
const isForeignCopy = (placed: Placed, ap: Ap): boolean => {
  if (typeof placed.copy === 'number' || placed.holder !== undefined) return false
  const obstacle = placed.obstacles.get(apId(placed.copy))
  const state = ap.outlook.candidates.get(apId(placed.copy))?.state
  return state !== 'alive' || (obstacle?.startsWith('has no label') ?? false)
}

function whyWaiting(placed: Placed, ap: Ap): string {
  if (placed.waitsFor !== undefined) return `waiting for AP ${ap.nameOf(placed.waitsFor)}, its data is there`
  const asking = reasonsForNoLease(placed, ap)
  if (asking !== '') return asking
  if (placed.ranks.length > 0) return `AP ${ap.nameOf(placed.ranks[0]!)} is to take it`
  if (placed.elsewhere !== undefined) return `neighbourhood ${placed.elsewhere} is to take it`
  const obstacles = [...placed.obstacles]
  if (obstacles.length === 0) return 'no AP fits'
  const unset = placed.chute.secrets?.find(({ record }) => record === undefined)?.name
  if (unset !== undefined) return `waits for secret ${unset}: dropmesh secret set ${placed.chute.id.name} ${unset}`
  return `no AP fits: ${obstacles.map(([id, why]) => `${ap.nameOf(id)} ${why}`).join('; ')}`
}

/** What the APs say that ask for the lease of an exclusive instance. */
const reasonsForNoLease = ({ instance }: Placed, ap: Ap): string =>
  [...ap.outlook.candidates]
    .flatMap(([id, { state, beacon }]) => {
      const report = beacon?.instances.find((one) => one.state === 'waiting' && hex(one.instance) === instance)
      return report === undefined || state === 'dead' || state === 'left'
        ? []
        : [`AP ${ap.nameOf(id)} ${report.reason}`]
    })
    .join('; ')

/** Finds the chute a person means by `name` or `publisher/name`. @throws MeshError `no-such-chute`, `ambiguous` */
export function findChute(ap: Ap, text: string): Chute {
  const [publisher, name] = text.includes('/') ? text.split('/', 2) : [undefined, text]
  const isMeant = (called: string, by: Uint8Array) =>
    called === name && (publisher === undefined || hex(by).startsWith(publisher.toLowerCase()))
  const known = [...ap.outlook.chutes, ...ap.outlook.barred.map(({ chute }) => chute)]
  const isWanted = (chute: Chute) => publisher !== undefined || ap.outlook.authority.of(chute.id.publisher).length > 0
  const found = known.filter((chute) => isMeant(chute.id.name, chute.id.publisher) && isWanted(chute))
  if (found.length === 0) {
    const isRemoved = ap.ledgerStore.ledger
      .inForce('removal', Number.POSITIVE_INFINITY)
      .some(({ subject, signer }) => isMeant(readChuteSubject(subject).name, signer))
    throw new MeshError(
      'no-such-chute',
      `there is no chute "${text}"${isRemoved ? ' any more: it was removed' : ''}; see "dropmesh ls"`,
    )
  }
  if (found.length > 1) {
    const choices = found.map(({ id }) => `${hex(id.publisher).slice(0, 12)}/${id.name}`).join(', ')
    throw new MeshError('ambiguous', `several publishers have a chute "${text}"; say which one: ${choices}`)
  }
  return found[0]!
}

/** Finds an AP by name or by the beginning of its id. @throws MeshError `no-such-ap`, `ambiguous` */
export function findAp(ap: Ap, text: string): string {
  const members = [...ap.outlook.membership.members.values()]
  const exact = members.filter(({ id }) => id === text)
  const found =
    exact.length > 0
      ? exact
      : members.filter(({ name, id }) => name === text || (text.length >= 12 && id.startsWith(text)))
  if (found.length === 0) throw new MeshError('no-such-ap', `there is no AP "${text}"; see "dropmesh aps"`)
  if (found.length > 1) {
    throw new MeshError(
      'ambiguous',
      `several APs are called "${text}"; use the id of one: ${found.map(({ id }) => id).join(', ')}`,
    )
  }
  return found[0]!.id
}

/** Everything known about a chute, an AP, a key or a ticket. @throws MeshError where none is called so */
export function inspect(ap: Ap, text: string): object {
  try {
    return inspectChute(ap, findChute(ap, text))
  } catch (error) {
    if (!(error instanceof MeshError) || error.code !== 'no-such-chute') throw error
  }
  try {
    return inspectAp(ap, findAp(ap, text))
  } catch (error) {
    if (!(error instanceof MeshError) || error.code !== 'no-such-ap') throw error
  }
  try {
    return inspectKey(ap, text)
  } catch (error) {
    if (!(error instanceof MeshError) || error.code !== 'no-such-key') throw error
    throw new MeshError(
      'no-such-thing',
      `there is no chute, AP, key or ticket "${text}"; see "dropmesh ls", "dropmesh aps", "dropmesh grants" and "dropmesh invites"`,
    )
  }
}

const iso = (ms: number): string => new Date(ms).toISOString()

function inspectChute(ap: Ap, chute: Chute): object {
  const { deployment } = chute
  const { ledger } = ap.ledgerStore
  return {
    kind: 'chute',
    chute: chute.id.name,
    publisher: hex(chute.id.publisher),
    creation: hex(chute.id.creation),
    revision: chute.revision,
    desired: chute.desired,
    record: {
      hash: hex(deployment.hash),
      signer: hex(deployment.signer),
      signed: iso(deployment.clock[0]),
      signature: 'verified',
    },
    // By what its publisher may have it, and why that is not all that it asks for.
    granted: grantsOf(ap, chute.id.publisher),
    notAllowed: ap.outlook.barred.find((one) => one.chute === chute)?.why ?? chute.limit?.why ?? null,
    resources: resourcesOf(chute.spec),
    rights: rightsFor(ap, chute),
    spec: readable(chute.spec),
    secrets: secretsFor(ap, chute),
    instances: instances(ap).filter(({ chuteKey }) => chuteKey === hex(chute.key)),
    successors: successorsTo(ap, chute),
    package: packageOf(ap, chute),
    claims: ap.outlook.placed
      .filter((placed) => placed.chute === chute)
      .flatMap(({ instance }) => ap.outlook.claims.get(instance) ?? [])
      .map(({ signer, clock, body, hash }) => ({
        ap: apId(signer),
        apName: ap.nameOf(apId(signer)),
        epoch: body.epoch,
        cause: body.cause,
        signed: iso(clock[0]),
        hash: hex(hash),
      })),
    history: ledger.history('deployment', deployment.subject).map(({ body, clock, hash, signer }) => ({
      revision: body.revision,
      creation: hex(body.creation),
      signed: iso(clock[0]),
      signer: hex(signer),
      hash: hex(hash),
      // A revision that its publisher may not have leaves in force the one before it.
      notAllowed: whyNotRevision(ap, deployment, hash),
    })),
  }
}

/** The package of a chute, and which APs say that they have all of it that they would run from. */
function packageOf(ap: Ap, { spec: { package: ref } }: Chute): object | null {
  if (ref === undefined) return null
  const digest = hex(ref.digest)
  const has = ({ beacon }: Candidate) => beacon?.packages.some((one) => hex(one) === digest)
  const holders = [...ap.outlook.candidates].filter(([, candidate]) => has(candidate))
  return { digest, size: ref.size, holders: holders.map(([id]) => ({ id, name: ap.nameOf(id) })) }
}

/** Each right that a chute needs, and whether its publisher holds it. */
const rightsFor = (ap: Ap, { spec: { services }, id }: Chute) =>
  services.flatMap((service) => {
    const held = ap.outlook.authority.rightsOf(id.publisher, ap.ledgerStore.clock.now())
    const lacks = lackingRights(service, held).map(({ right }) => right)
    return asksOf(service).map(({ right }) => ({ service: service.name, right, held: !lacks.includes(right) }))
  })

function whyNotRevision(ap: Ap, { subject }: Chute['deployment'], hash: Uint8Array): string | null {
  const { ledger, clock } = ap.ledgerStore
  const record = ledger.history('deployment', subject).find((one) => equalBytes(one.hash, hash))!
  const { name } = readChuteSubject(subject)
  const judged = ap.outlook.authority.judge(record, name, record.body.spec, clock.now())
  return typeof judged === 'string' ? judged : null
}

/** Who would take over each instance of a chute, the first one first, and whether they have its images already. */
function successorsTo(ap: Ap, chute: Chute) {
  return ap.outlook.placed
    .filter((placed) => placed.chute === chute && placed.holder !== undefined)
    .flatMap((placed) => {
      const next = successorsOf(ap.outlook, placed.holder!, ap.ledgerStore.clock.now()).get(placed.instance) ?? []
      return next.map((id) => {
        const beacon = ap.outlook.candidates.get(id)?.beacon
        const held = new Set(beacon?.images.map(hex))
        const isReady = chute.spec.services.every(({ images }) =>
          images.some((image) => image.platform === beacon?.engine?.platform && held.has(hex(image.config))),
        )
        return { instance: baseOf(placed, ap).instance, ap: id, apName: ap.nameOf(id), ready: isReady }
      })
    })
}

function inspectAp(ap: Ap, id: string): object {
  const { member, state, beacon } = ap.outlook.candidates.get(id)!
  return {
    kind: 'ap',
    id,
    name: member.name,
    state,
    role: member.role,
    draining: member.draining,
    labels: member.labels,
    since: iso(member.since[0]),
    origin: howItCame(ap, id),
    lastHeard: ap.lastHeard(id),
    watchers: ap.watchers(id).map((watcher) => ({ id: watcher, name: ap.nameOf(watcher) })),
    accusations: ap.statements(id).map(({ statement: { signer, clock, body }, stands }) => ({
      by: apId(signer),
      byName: ap.nameOf(apId(signer)),
      signed: iso(clock[0]),
      stands,
      ...body,
      watchers: hex(body.watchers),
    })),
    beacon: beacon === undefined ? null : readable(beacon),
    instances: instances(ap).filter((row) => row.ap === id),
  }
}

/** Bytes as hex, all the way down. */
function readable(value: unknown): unknown {
  if (value instanceof Uint8Array) return hex(value)
  if (Array.isArray(value)) return value.map(readable)
  if (value === null || typeof value !== 'object') return value
  return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, readable(item)]))
}

/** Keys of APs to vote on an exclusive chute: five that are alive, or three where there are no five, or all there are. */
function votersToBe(ap: Ap): Uint8Array[] {
  const alive = [...ap.outlook.candidates.values()].filter(({ state }) => state === 'alive')
  const draw = new Uint8Array(randomBytes(20)) // so that not the same few vote on every chute
  const ranked = alive
    .map(({ member }) => ({ key: member.key, score: score('voters 1', draw, member.key, 1) }))
    .sort((a, b) => b.score - a.score)
  return ranked.slice(0, ranked.length >= 5 ? 5 : 3).map(({ key }) => key)
}

/**
 * Those whom an admin can make the voters of an exclusive chute without asking the ones it has. Only for when too many of
 * these are gone for good: nobody can know whether a copy still runs by their votes.
 * @throws MeshError `not-exclusive`, `too-many-changes`
 */
export function forcedVoters(ap: Ap, text: string) {
  const { id, key } = findChute(ap, text)
  const electorate = ap.outlook.electorates.get(hex(key))
  if (electorate === undefined) throw new MeshError('not-exclusive', `${id.name} is not exclusive; it has no voters`)
  if (electorate.generation === MAX_GENERATION) {
    throw new MeshError(
      'too-many-changes',
      `the voters of ${id.name} have changed ${MAX_GENERATION} times, and can no more: remove it and publish it anew`,
    )
  }
  const candidates = votersToBe(ap)
  const voters = candidates.slice(0, candidates.length < 3 ? 1 : 5)
  return {
    chute: id.name,
    key: hex(key),
    generation: electorate.generation + 1,
    voters: voters.map((voter) => ({ key: hex(voter), name: ap.nameOf(apId(voter)) })),
  }
}

/** What a publisher must know to sign the next record of a chute: its creation id, revision and clock. */
export function next(ap: Ap, publisher: Uint8Array, name: string) {
  const subject = chuteSubject(publisher, name)
  const { chutes, barred, authority } = ap.outlook
  const known = [...chutes, ...barred.map(({ chute }) => chute)]
  const chute = known.find(({ deployment }) => equalBytes(deployment.subject, subject))
  const { ledger, clock } = ap.ledgerStore
  // What has a clock far ahead is not in force yet, and nothing that is signed now could come after it.
  const history = ledger.history('deployment', subject).filter((record) => isDue(record, clock.now()))
  const creations = [...history, ...ledger.history('removal', subject)].map(({ body }) => body.creation)
  const lastCreation = creations.sort((a, b) => Buffer.compare(b, a))[0]
  const exclusive = chute?.spec.exclusive
  return {
    mesh: hex(ap.ledgerStore.mesh),
    clock: clock.next(),
    creation: chute === undefined ? null : hex(chute.id.creation),
    lastCreation: lastCreation === undefined ? null : hex(lastCreation),
    revision: Math.max(0, ...history.map(({ body }) => body.revision)) + 1,
    restarts: chute?.restarts ?? 0,
    desired: chute?.desired ?? null,
    rights: authority.rightsOf(publisher, clock.now()),
    refusal: whyNotPublish(authority, publisher, name, clock.now()) ?? null,
    exclusive: exclusive === undefined ? null : { voters: exclusive.voters.map(hex), salt: hex(exclusive.salt) },
    candidates: votersToBe(ap).map(hex),
  }
}

export interface RevisionRow {
  chute: string
  publisher: string
  revision: number
  /** When its publisher signed it: ISO 8601. */
  signed: string
  state: RevisionState
  hash: string
  /** Hash of the revision that won over it. */
  lostTo: string | null
  /** Hash of the revision that it changed. */
  before: string | null
  /** The record as it was signed, in base64: who puts it in force again need not trust this AP for what it says. */
  envelope: string
}

/** The revisions of a chute that are kept, newest first: ten records of 32 KiB at most. */
export function history(ap: Ap, text: string): RevisionRow[] {
  const { id, deployment } = findChute(ap, text)
  const { ledger, clock } = ap.ledgerStore
  const hashOf = (record: typeof deployment | undefined) => (record === undefined ? null : hex(record.hash))
  const isAllowed = ({ hash }: typeof deployment) => whyNotRevision(ap, deployment, hash) === null
  return revisionsOf(ledger.history('deployment', deployment.subject), clock.now(), isAllowed).map(
    ({ deployment: { body, clock: signed, hash, bytes }, state, lostTo, before }) => ({
      chute: id.name,
      publisher: hex(id.publisher),
      revision: body.revision,
      signed: iso(signed[0]),
      state,
      hash: hex(hash),
      lostTo: hashOf(lostTo),
      before: hashOf(before),
      envelope: Buffer.from(bytes).toString('base64'),
    }),
  )
}

/** Publisher and name of a chute, for signing its registers. */
export function chuteIdentity(ap: Ap, text: string) {
  const { deployment } = findChute(ap, text)
  const { publisher, name } = readChuteSubject(deployment.subject)
  return { publisher: hex(publisher), name }
}
