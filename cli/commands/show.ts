// `status`, `aps`, `ls`, `ps`, `inspect`: what the local node knows.
import type { Command } from 'commander'
import { stringify } from 'yaml'
import type { GrantRow } from '../../node/api/grants.js'
import type { ApRow, ChuteRow, InstanceRow, Status } from '../../node/api/queries.js'
import type { Client } from '../client.js'
import { listKeys } from '../keys.js'
import { clientOf, forNode, type NodeOptions } from '../options.js'
import { ago, colour, gib, megabytes, paintState, print, printJson, printTable } from '../output.js'
import { saveRecord } from './verify.js'

export function addShow(program: Command): void {
  forNode(
    program.command('status').description('this AP: its mesh, peers, role, engine, ledger, anything at risk'),
    'dropmesh status',
  ).action(status)
  forNode(program.command('aps').description('every AP in the mesh as seen from here'), 'dropmesh aps --json').action(
    aps,
  )
  forNode(program.command('ls').description('chutes: publisher, revision, instances, health'), 'dropmesh ls').action(ls)
  forNode(
    program.command('ps').argument('[chute]').description('instances: AP, state, epoch, since, ports'),
    'dropmesh ps hello',
  ).action(ps)
  forNode(
    program
      .command('inspect')
      .argument('<chute|ap|key|ticket>')
      .description('everything known, with signatures and history')
      .option('--record <file>', 'write the record of the chute, as it was signed, for "dropmesh verify"'),
    'dropmesh inspect hello',
  ).action(inspect)
}

async function status(options: NodeOptions): Promise<void> {
  const answer = await clientOf(options).get<Status>('/v1/status')
  if (options.json) return printJson(answer)
  const { ap, mesh, state, role, peers, members, ledger, docker, addresses, warnings, version, neighbourhood } = answer
  const { origin, ownerKey, requests, tickets, registry } = answer
  const rows = [
    ['AP', `${ap.name}  ${ap.id}`],
    ['Mesh', `${mesh}  ${members} ${members === 1 ? 'member' : 'members'}, ${peers} connected`],
    ...(neighbourhood.prefix === ''
      ? []
      : [['Near', `neighbourhood ${neighbourhood.prefix}, ${neighbourhood.members} members`]]),
    ['State', `${state}${role === null ? '' : `, role ${role}`}`],
    ['Origin', origin ?? 'in no mesh yet'],
    ...(ownerKey
      ? [['Owner key', 'lies here in clear: take it off with "dropmesh keys export FILE --mesh --remove"']]
      : []),
    ...(requests === 0 ? [] : [['Asking', `${requests} to be let in: see "dropmesh requests"`]]),
    ['Tickets', ticketText(tickets)],
    ['Engine', docker === null ? 'none answers' : `Docker ${docker.version}`],
    [
      'Packages',
      `${megabytes(registry.bytes)} of ${megabytes(registry.max)} in ${registry.blobs} blobs, registry at ${registry.address}`,
    ],
    ['Ledger', `${ledger.records} records, digest ${ledger.digest}`],
    ['Exclusive', answer.exclusive],
    ['Addresses', addresses.map((address) => address.replace(/\/p2p\/.*/, '')).join(' ')],
    ['Version', version],
  ]
  for (const [name, value] of rows) print(`${name!.padEnd(10)} ${value}`)
  for (const line of await ownGrants(clientOf(options))) print(`${'You'.padEnd(10)} ${line}`)
  for (const warning of warnings) print(`${colour.yellow('Warning')}    ${warning}`)
}

function ticketText({ count, left, until }: Status['tickets']): string {
  if (count === 0) return 'none lets anyone in'
  const which = count === 1 ? '1 ticket lets in' : `${count} tickets let in`
  const end = until === null ? 'for ever' : `until ${until}`
  return `${which} ${left} more ${left === 1 ? 'AP' : 'APs'}, ${end}: see "dropmesh invites"`
}

/** What the keys of this user may in this mesh. */
async function ownGrants(client: Client): Promise<string[]> {
  const keys = await listKeys().catch(() => [])
  const rows = keys.length === 0 ? [] : await client.get<GrantRow[]>('/v1/grants')
  return keys.flatMap(({ name, publisher }) => {
    const own = rows.filter(({ key }) => key === publisher)
    if (own.length === 0) return [`key ${name} may publish nothing here`]
    return own.map(({ may, role }) => `key ${name}, ${role}: may ${may}`)
  })
}

async function aps(options: NodeOptions): Promise<void> {
  const rows = await clientOf(options).get<ApRow[]>('/v1/aps')
  if (options.json) return printJson(rows)
  const isDivided = rows.some(({ neighbourhood }) => neighbourhood !== '')
  printTable(
    ['NAME', 'STATE', ...(isDivided ? ['NEAR'] : []), 'INSTANCES', 'CPUS', 'MEMORY', 'LABELS', 'LAST HEARD', 'ID'],
    rows.map((ap) => [
      ap.name,
      paintState(ap.state),
      ...(isDivided ? [ap.neighbourhood] : []),
      String(ap.instances),
      String(ap.capacity.cpus),
      gib(ap.capacity.memory),
      Object.entries(ap.labels)
        .map(([k, v]) => `${k}=${v}`)
        .join(','),
      ago(ap.lastHeard),
      ap.id,
    ]),
  )
}

async function ls(options: NodeOptions): Promise<void> {
  const rows = await clientOf(options).get<ChuteRow[]>('/v1/chutes')
  if (options.json) return printJson(rows)
  printTable(
    ['CHUTE', 'PUBLISHER', 'REVISION', 'DESIRED', 'WANTED', 'RUNNING', 'HEALTHY'],
    rows.map((c) => [
      c.chute,
      c.publisher.slice(0, 12),
      String(c.revision),
      paintState(c.desired),
      String(c.wanted),
      String(c.running),
      String(c.healthy),
    ]),
  )
}

async function ps(chute: string | undefined, options: NodeOptions): Promise<void> {
  const client = clientOf(options)
  const of =
    chute === undefined ? undefined : await client.get<{ publisher: string; name: string }>('/v1/chute', { of: chute })
  const rows = (await client.get<InstanceRow[]>('/v1/instances')).filter(
    (row) => of === undefined || (row.chute === of.name && row.publisher === of.publisher),
  )
  if (options.json) return printJson(rows)
  printTable(
    ['INSTANCE', 'AP', 'STATE', 'EPOCH', 'REVISION', 'SINCE', 'PORTS', 'REASON'],
    rows.map((row) => [
      row.instance,
      row.apName ?? '-',
      paintState(row.state) + fetchedText(row),
      String(row.epoch),
      String(row.revision),
      row.since === null ? '-' : ago(row.since),
      row.ports.map(({ host, container, protocol }) => `${host}->${container}/${protocol}`).join(' '),
      row.reason ?? '',
    ]),
  )
}

const fetchedText = ({ state, fetched }: InstanceRow): string => {
  if (fetched === null) return ''
  return state === 'fetching' ? ` ${fetched} %` : `, next ${fetched} %`
}

async function inspect(what: string, options: NodeOptions & { record?: string }): Promise<void> {
  if (options.record !== undefined) await saveRecord(clientOf(options), what, options.record)
  const answer = await clientOf(options).get<object>('/v1/inspect', { of: what })
  if (options.json) return printJson(answer)
  print(stringify(answer).trimEnd())
}
