// `grant`, `revoke`, `grants`: who may do what. Signed with a key of this user, not by the node.
import type { Command } from 'commander'
import type { GrantRow, Stake } from '../../node/api/grants.js'
import { parseLabels } from '../../node/config.js'
import { concat, hex, unhex } from '../../protocols/bytes.js'
import { size } from '../../protocols/compose-values.js'
import { MeshError } from '../../protocols/error.js'
import type { Body } from '../../protocols/kinds.js'
import { MAX_KEPT } from '../../protocols/limits.js'
import { parseDuration } from '../duration.js'
import { listKeys, showKey, signerOf } from '../keys.js'
import { clientOf, forNode, type NodeOptions } from '../options.js'
import { colour, held, print, printJson, printTable, say } from '../output.js'
import { signAsAdmin } from '../sign.js'

interface GrantOptions extends NodeOptions {
  key?: string
  role?: string
  chutes?: string[]
  on?: string[]
  cpus?: string
  memory?: string
  disk?: string
  instances?: string
  right?: string[]
  from?: string
  until?: string
}

interface RevokeOptions extends NodeOptions {
  key?: string
  stopChutes?: boolean
  keep?: string[]
  dryRun?: boolean
}

const collect = (value: string, before: string[] | undefined) => [...(before ?? []), ...value.split(',')]

export function addAuthority(program: Command): void {
  const granting = program
    .command('grant')
    .argument('<key>', 'public key as "dropmesh keys show" prints it, or a key of yours: its name, or an SSH key file')
    .description('let a key publish chutes, or grant in its turn; replaces what you granted it before')
    .option('--role <role>', 'publisher, or admin for one who grants, invites and publishes', 'publisher')
    .option('--chutes <names>', 'names of its chutes: "cam", or "web-*" for all that begin so; repeatable', collect)
    .option('--on <k=v>', 'only on APs with this label, repeatable', collect)
    .option('--cpus <n>', 'CPUs of all its chutes together')
    .option('--memory <size>', 'memory of all its chutes together: 512m, 2g')
    .option('--disk <size>', 'disk for the images of all its chutes together, a copy for each instance')
    .option('--instances <n>', 'instances of all its chutes together')
    .option('--right <right>', 'what no chute may without: "port:80", "port:*", "*"; repeatable', collect)
    .option('--from <time>', 'when it begins: a date, or 12h for in 12 hours')
    .option('--until <time>', 'when it ends: a date, or 30d for in 30 days')
    .option('--key <name>', 'key of yours to sign with')
  forNode(granting, 'dropmesh grant e218636af36c… --chutes "web-*" --cpus 2 --memory 1g --until 30d').action(grant)

  const revoking = program
    .command('revoke')
    .argument('<key>', 'public key or its first digits, or the name of a key of yours')
    .description('take back all that a key may, for ever; what counts of it now stays unless told otherwise')
    .option('--stop-chutes', 'its chutes stop and go; else those it has now stay as they are')
    .option('--keep <hash>', 'of what would stay let stay only this, repeatable', collect)
    .option('--dry-run', 'only say what would stay and what would stop')
    .option('--key <name>', 'key of yours to sign with')
  forNode(revoking, 'dropmesh revoke e218636a --stop-chutes').action(revoke)

  forNode(program.command('grants').description('what each key may, and by whom'), 'dropmesh grants').action(grants)
}

async function grant(text: string, options: GrantOptions): Promise<void> {
  const { role } = options
  if (role !== 'publisher' && role !== 'admin') {
    throw new MeshError('role', `--role ${role}: publisher or admin (an AP is let in with "dropmesh invite")`)
  }
  const client = clientOf(options)
  const key = await keyOf(text)
  const body: Body<'grant'> = {
    role,
    expires: options.until === undefined ? 0 : parseTime(options.until, '--until'),
    ...(options.from !== undefined && { from: parseTime(options.from, '--from') }),
    scope: {
      ...(options.chutes !== undefined && { chutes: options.chutes.map(checkedPattern) }),
      ...(options.on !== undefined && { labels: parseLabels(options.on, '--on') }),
      ...(options.cpus !== undefined && { cpu: Math.round(parseNumber(options.cpus, '--cpus') * 1000) }),
      ...(options.memory !== undefined && { memory: parseSize(options.memory, '--memory') }),
      ...(options.disk !== undefined && { disk: parseSize(options.disk, '--disk') }),
      ...(options.instances !== undefined && { instances: Math.round(parseNumber(options.instances, '--instances')) }),
      ...(options.right !== undefined && { rights: options.right }),
    },
  }
  const { hash, holders } = await signAsAdmin(client, await signerOf(options.key), 'grant', unhex(key), body)
  const row = (await client.get<GrantRow[]>('/v1/grants')).find((one) => one.hash === hash)
  if (options.json) return printJson({ ...row, key, role, hash, holders })
  print(`${role} ${key} may ${row?.may ?? 'nothing yet'}; ${held(holders)}`)
}

function checkedPattern(pattern: string): string {
  if (/^(?=.)[a-z0-9-]{0,63}\*?$/.test(pattern)) return pattern
  const hint = pattern.includes('/') ? '; whose chutes they are says the key, so no "/"' : ''
  throw new MeshError('chutes', `--chutes "${pattern}": a name, or the beginning of names and "*"${hint}`)
}

function parseNumber(text: string, flag: string): number {
  if (/^\d{1,9}(\.\d{1,3})?$/.test(text)) return Number(text)
  throw new MeshError('number', `${flag} "${text}": a number such as 2 or 0.5`)
}

function parseSize(text: string, flag: string): number {
  try {
    return size(text)
  } catch {
    throw new MeshError('size', `${flag} "${text}": a size such as 512m or 2g`)
  }
}

function parseTime(text: string, flag: string): number {
  const at = /^\d{4}-/.test(text) ? Date.parse(text) : Date.now() + parseDuration(text, flag)
  if (Number.isNaN(at)) throw new MeshError('time', `${flag} "${text}": a date such as 2031-05-01, or 12h, or 30d`)
  return at
}

/** Hex of the key a person means: as it is, or one of theirs by its name or the file of an SSH key. */
const keyOf = async (text: string): Promise<string> =>
  /^[0-9a-f]{64}$/i.test(text) ? text.toLowerCase() : (await showKey(text)).publisher

async function revoke(text: string, options: RevokeOptions): Promise<void> {
  const client = clientOf(options)
  const of = await keyOf(text).catch(() => text)
  const { key, stakes } = await client.get<{ key: string; stakes: Stake[] }>('/v1/stakes', { of })
  const isKept = ({ hash, kind }: Stake) =>
    !(options.stopChutes && (kind === 'chute' || kind === 'state' || kind === 'secret')) &&
    (options.keep === undefined || options.keep.some((wanted) => wanted.length >= 8 && hash.startsWith(wanted)))
  const unknown = options.keep?.find((wanted) => !stakes.some(({ hash }) => hash.startsWith(wanted)))
  if (unknown !== undefined)
    throw new MeshError('keep', `--keep ${unknown}: key ${key} signed nothing of that hash that counts`)
  const stays = stakes.filter(isKept)
  const ends = stakes.filter((stake) => !isKept(stake))
  if (stays.length > MAX_KEPT) {
    throw new MeshError('keep', `${stays.length} records would stay, ${MAX_KEPT} can: use --stop-chutes or --keep`)
  }
  if (!options.json) {
    for (const { what, hash } of stays) print(`${colour.green('stays')}  ${what}  ${colour.dim(hash.slice(0, 16))}`)
    for (const { what, kind, hash } of ends)
      print(`${colour.red(kind === 'chute' ? 'stops' : 'ends ')}  ${what}  ${colour.dim(hash.slice(0, 16))}`)
  }
  const outcome = { key, stays, ends, dryRun: options.dryRun ?? false }
  if (options.dryRun) return options.json ? printJson(outcome) : print('nothing was signed')
  const signer = await signerOf(options.key)
  const keep = concat(...stays.map(({ hash }) => unhex(hash)))
  const { holders } = await signAsAdmin(client, signer, 'revocation', unhex(key), { keep })
  const left = (await client.get<GrantRow[]>('/v1/grants')).filter((row) => row.key === key && row.state === 'in-force')
  for (const { chain } of left) {
    say(
      `Key ${key} still has a grant that did not come through ${hex(signer.publicKey)}; these can revoke it: ${chain.join(', ')}`,
    )
  }
  if (options.json) return printJson({ ...outcome, holders })
  const chutes = stays.some(({ kind }) => kind === 'chute') ? '; nobody can change the chutes that stay any more' : ''
  print(`key ${key} is revoked for ever${chutes}; ${held(holders)}`)
}

async function grants(options: NodeOptions): Promise<void> {
  const rows = await clientOf(options).get<GrantRow[]>('/v1/grants')
  if (options.json) return printJson(rows)
  const names = new Map((await listKeys()).map(({ name, publisher }) => [publisher, name]))
  printTable(
    ['KEY', 'YOURS', 'ROLE', 'STATE', 'MAY', 'GRANTED BY'],
    rows.map(({ key, role, state, may, chain }) => [
      key.slice(0, 12),
      names.get(key) ?? '',
      role,
      state === 'in-force' ? colour.green(state) : colour.red(state),
      may,
      chain.length === 1 ? 'the mesh key' : chain.at(-1)!.slice(0, 12),
    ]),
  )
}
