// `invite`, `invites`, `requests`, `approve`: who may come in. Signed with a key of this user, not by the node.
import type { Command } from 'commander'
import type { InviteRow, RequestRow } from '../../node/api/invites.js'
import { parseLabels } from '../../node/config.js'
import { MeshError } from '../../protocols/error.js'
import { MAX_USES } from '../../protocols/limits.js'
import { parseDuration } from '../duration.js'
import { listKeys, signerOf } from '../keys.js'
import { clientOf, forNode, type NodeOptions } from '../options.js'
import { ago, colour, print, printJson, printTable, say } from '../output.js'
import { qrCode } from '../qr.js'
import { approve, invite } from '../ticket.js'

interface InviteOptions extends NodeOptions {
  role: string
  uses: string
  ttl?: string
  label?: string[]
  qr?: boolean
  key?: string
}

const collect = (value: string, before: string[] | undefined) => [...(before ?? []), ...value.split(',')]

/** Addresses in a ticket that a camera is to read from a terminal of 80 columns. */
const ADDRESSES_IN_QR = 1

export function addInvite(program: Command): void {
  const inviting = program
    .command('invite')
    .description('make a ticket for one AP, or several; it stands alone on the last line')
    .option('--uses <n>', 'how many APs it lets in', '1')
    .option('--role <role>', 'ap, or admin for an AP whose own key may forget and drain others', 'ap')
    .option('--label <k=v>', 'label of the APs that come in by it, whatever they say themselves; repeatable', collect)
    .option('--ttl <time>', 'how long it is good: 30m, 12h, 7d (default: for ever)')
    .option('--qr', 'print it as a QR code as well')
    .option('--key <name>', 'key of yours to sign with')
  forNode(inviting, 'dropmesh invite --uses 20 --label site=school --ttl 7d').action(makeTicket)

  forNode(
    program.command('invites').description('tickets: who issued them, how many they let in, until when'),
    'dropmesh invites',
  ).action(invites)

  forNode(
    program.command('requests').description('APs on the LAN that asked this one to be let in'),
    'dropmesh requests',
  ).action(async (options: NodeOptions) => {
    const rows = await clientOf(options).get<RequestRow[]>('/v1/requests')
    if (options.json) return printJson(rows)
    printTable(
      ['NAME', 'CODE', 'ADDRESS', 'LABELS', 'SINCE', 'ID'],
      rows.map(({ name, code, address, labels, since, ap }) => [
        ...[name, spaced(code), address, labelText(labels), ago(since), ap],
      ]),
    )
  })

  const approving = program
    .command('approve')
    .argument('<code>', 'the code that the AP shows')
    .description('let in an AP that asked, if the code here is the one that it shows')
    .option('--label <k=v>', 'label of the AP, whatever it says itself; repeatable', collect)
    .option('--key <name>', 'key of yours to sign with')
  forNode(approving, 'dropmesh approve 482913').action(approveOne)
}

async function makeTicket(options: InviteOptions): Promise<void> {
  const { role, label, qr } = options
  if (role !== 'ap' && role !== 'admin') {
    throw new MeshError(
      'role',
      `--role ${role}: ap or admin (a publisher needs no ticket, but a grant: dropmesh grant KEY)`,
    )
  }
  const uses = Number(options.uses)
  if (!Number.isInteger(uses) || uses < 1 || uses > MAX_USES)
    throw new MeshError('uses', `--uses ${options.uses}: a number from 1 to ${MAX_USES}`)
  const ttl = options.ttl === undefined ? 0 : parseDuration(options.ttl, '--ttl')
  const labels = parseLabels(label ?? [], '--label')
  const terms = { role, uses, ttl, labels } as const
  const ticket = await invite(clientOf(options), await signerOf(options.key), terms, qr ? ADDRESSES_IN_QR : undefined)
  if (options.json) return printJson({ ticket, role, uses, labels })
  say(
    `This ticket lets ${uses === 1 ? 'one AP' : `${uses} APs`} in. Whoever has it can use it: hand it over like a key.`,
  )
  if (qr) print(qrCode(ticket))
  print(ticket)
}

async function invites(options: NodeOptions): Promise<void> {
  const rows = await clientOf(options).get<InviteRow[]>('/v1/invites')
  if (options.json) return printJson(rows)
  const names = new Map((await listKeys()).map(({ name, publisher }) => [publisher, name]))
  printTable(
    ['TICKET', 'STATE', 'LETS IN', 'EXPIRES', 'LABELS', 'ISSUED BY', 'APS'],
    rows.map((row) => [
      row.ticket.slice(0, 12),
      row.state === 'good' ? colour.green(row.state) : colour.red(row.state),
      `${row.open ? 'anyone on the LAN' : `${row.left} of ${row.uses}`}${row.role === 'admin' ? ' as admin' : ''}`,
      row.expires ?? 'never',
      labelText(row.labels),
      names.get(row.by) ?? row.by.slice(0, 12),
      row.aps.join(' '),
    ]),
  )
}

async function approveOne(text: string, options: NodeOptions & { label?: string[]; key?: string }): Promise<void> {
  const client = clientOf(options)
  const code = text.replace(/[\s-]/g, '')
  const rows = (await client.get<RequestRow[]>('/v1/requests')).filter((row) => row.code === code)
  if (rows.length === 0)
    throw new MeshError('no-such-code', `no AP asks to be let in here with code ${code}; see "dropmesh requests"`)
  if (rows.length > 1)
    throw new MeshError(
      'same-code',
      `${rows.length} APs show code ${code}, one of which may be a cheat; let it ask anew`,
    )
  const labels = parseLabels(options.label ?? [], '--label')
  const answer = await approve(client, await signerOf(options.key), rows[0]!, labels)
  if (options.json) return printJson({ ...answer, code, labels })
  print(`${answer.name} (${answer.id}) may come in, and does so within seconds`)
}

const spaced = (code: string): string => `${code.slice(0, 3)} ${code.slice(3)}`
const labelText = (labels: Record<string, string>): string =>
  Object.entries(labels)
    .map(([k, v]) => `${k}=${v}`)
    .join(',')
