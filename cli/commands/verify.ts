// `dropmesh verify`: who signed what a chute is, and who let them. Checked here, so that neither the node nor the file it came
// from need be trusted; with a file no node is asked at all.
import { readFile, writeFile } from 'node:fs/promises'
import type { Command } from 'commander'
import { type Standing, whatItMay } from '../../protocols/authority.js'
import { fromBase32, hex } from '../../protocols/bytes.js'
import { amountsOf } from '../../protocols/ceilings.js'
import { readChuteSubject } from '../../protocols/chute.js'
import type { ChuteSpec } from '../../protocols/deployment.js'
import { open, type SignedRecord } from '../../protocols/envelope.js'
import { MeshError, messageOf } from '../../protocols/error.js'
import { grantText } from '../../protocols/grant-text.js'
import { checkKind, isKind, type RecordOf } from '../../protocols/kinds.js'
import { meshText } from '../../protocols/membership.js'
import { judgeProof } from '../../protocols/proof.js'
import type { Client } from '../client.js'
import { listKeys } from '../keys.js'
import { clientOf, forNode, type NodeOptions } from '../options.js'
import { print, printJson } from '../output.js'
import { fingerprintOf } from '../ssh.js'

export function addVerify(program: Command): void {
  const command = program
    .command('verify')
    .argument('<chute>', 'name, or publisher/name')
    .description('check here who signed the revision of a chute that is in force, for which mesh, and who let them')
    .requiredOption('--mesh <id>', 'the mesh that it must be signed for')
    .option('--record <file>', 'check what "dropmesh inspect --record" wrote, and ask no node')
  forNode(command, 'dropmesh verify hello --mesh em2ju2ajafxcjgttqc3o2wpskndengjs --record hello.record').action(verify)
}

/** Writes the record of a chute and the chain that lets it be into a file, as they were signed: a line of base64 each. */
export async function saveRecord(client: Client, chute: string, file: string): Promise<void> {
  const lines = await askProof(client, chute)
  await writeFile(file, `${lines.join('\n')}\n`).catch((cause) => {
    throw new MeshError('record-file', `${file} cannot be written: ${messageOf(cause)}`, { cause })
  })
}

const askProof = async (client: Client, of: string): Promise<string[]> =>
  (await client.get<{ records: string[] }>('/v1/proof', { of })).records

async function verify(chute: string, options: NodeOptions & { mesh: string; record?: string }): Promise<void> {
  const mesh = meshOf(options.mesh)
  const lines = options.record === undefined ? await askProof(clientOf(options), chute) : await read(options.record)
  const source = options.record ?? 'what the node says'
  const [deployment, ...others] = signed(lines, mesh, source)
  const { publisher, name } = readChuteSubject(deployment.subject)
  const [asked, prefix] = chute.split('/').reverse()
  if (asked !== name || !hex(publisher).startsWith((prefix ?? '').toLowerCase()))
    throw new MeshError('other-chute', `the record is not of ${chute} but of ${hex(publisher).slice(0, 12)}/${name}`)
  const now = Date.now()
  const { standing, why } = judgeProof([deployment, ...others], mesh, now)
  if (standing === undefined || why !== undefined) {
    const what = `${name}, revision ${deployment.body.revision}, by ${hex(publisher)}`
    throw new MeshError('not-covered', `${source} does not show that ${what}, may be there: ${why}`)
  }
  await tell(deployment, standing, options, now)
}

/** @throws MeshError `record-file` */
function signed(lines: string[], mesh: Uint8Array, source: string): [RecordOf<'deployment'>, ...SignedRecord[]] {
  try {
    const records = lines.map((line) => open(new Uint8Array(Buffer.from(line, 'base64')), mesh))
    for (const record of records) checkKind(record)
    const [first, ...others] = records
    if (first === undefined) throw new MeshError('malformed', 'no record')
    if (!isKind(first, 'deployment')) {
      throw new MeshError('malformed', `a ${first.kind} record, where a deployment belongs`)
    }
    const odd = others.find((record) => !isKind(record, 'grant') && !isKind(record, 'revocation'))
    if (odd !== undefined) throw new MeshError('malformed', `a ${odd.kind} record, where a grant or revocation belongs`)
    return [first, ...others]
  } catch (cause) {
    throw new MeshError('record-file', `${source} proves nothing for mesh ${meshText(mesh)}: ${messageOf(cause)}`, {
      cause,
    })
  }
}

async function tell(
  { subject, body, clock, hash }: RecordOf<'deployment'>,
  standing: Standing,
  options: NodeOptions & { mesh: string; record?: string },
  now: number,
): Promise<void> {
  const { publisher, name } = readChuteSubject(subject)
  const own = new Map((await listKeys()).map((key) => [key.publisher, key.name]))
  const { revision, spec } = body
  const links = standing.chain.map(({ signer, subject: to, body: grant, clock: at, hash: of }) => ({
    by: hex(signer),
    to: hex(to),
    role: grant.role as Standing['role'],
    may: grantText(grant.role as Standing['role'], grant, now),
    granted: iso(at[0]),
    from: grant.from === undefined || grant.from === 0 ? null : iso(grant.from),
    until: grant.expires === 0 ? null : iso(grant.expires),
    hash: hex(of),
  }))
  const takes = takesOf(spec, standing)
  const signer = { publisher: hex(publisher), ssh: fingerprintOf(publisher), key: own.get(hex(publisher)) ?? null }
  if (options.json) {
    const about = { chute: name, revision, signed: iso(clock[0]), hash: hex(hash), mesh: options.mesh, signer }
    return printJson({ ...about, chain: links, takes })
  }
  const named = (key: string) => `${key}${own.has(key) ? `, your key ${own.get(key)},` : ''}`
  print(`${name}, revision ${revision}, is signed for mesh ${options.mesh}`)
  const rows = [
    ['Publisher', `${signer.publisher}${signer.key === null ? '' : `, your key ${signer.key}`}`],
    ['SSH key', `${signer.ssh}, as "ssh-keygen -l" names it`],
    ['Signed', `${iso(clock[0])}, by the publisher's clock`],
    ['Hash', hex(hash)],
    ...(links.length === 0 ? [['Chain', 'none is needed: the publisher is the key of the mesh']] : []),
    ...links.map(({ by, to, may, granted }, i) => [
      i === 0 ? 'Chain' : '',
      `${i === 0 ? `the key of the mesh, ${by},` : by} lets ${named(to)} ${may}; signed ${granted}`,
    ]),
    ['Takes', takes.length === 0 ? 'what it likes: no grant of the chain has a ceiling' : `${takes.join(', ')}`],
    ['Unknown', whatIsUnknown(options.record, takes.length > 0)],
  ]
  for (const [label, value] of rows) print(`${label!.padEnd(10)} ${value}`)
}

const iso = (ms: number): string => new Date(ms).toISOString()

/** What of each ceiling of a chain a chute takes by itself. */
function takesOf(spec: ChuteSpec, standing: Standing): string[] {
  const { cpu, memory, disk, instances } = whatItMay(standing)
  const one = amountsOf(spec)
  const copies = spec.replicas === 'everywhere' ? 1 : spec.replicas
  const mib = (bytes: number) => Math.floor(bytes / 1024 ** 2)
  const takes = [
    ...(cpu === undefined ? [] : [`${(copies * one.cpu) / 1000} of ${cpu / 1000} CPUs`]),
    ...(memory === undefined ? [] : [`${mib(copies * one.memory)} of ${mib(memory)} MiB of memory`]),
    ...(disk === undefined ? [] : [`${mib(copies * one.disk)} of ${mib(disk)} MiB of images`]),
    ...(instances === undefined ? [] : [`${copies} of ${instances} instances`]),
  ]
  return spec.replicas === 'everywhere' ? takes.map((text) => `${text} on each AP`) : takes
}

function whatIsUnknown(file: string | undefined, hasCeilings: boolean): string {
  const source = file === undefined ? 'the node did not say' : 'came after the file was written, or was left out of it'
  const others = hasCeilings ? '; what other chutes take of the ceilings' : ''
  return `a later revision, removal or revocation, or a grant that replaced one of these, which ${source}${others}`
}

/** A mesh id as `dropmesh status` prints it. @throws MeshError `mesh-id` */
function meshOf(text: string): Uint8Array {
  let mesh: Uint8Array | undefined
  try {
    mesh = fromBase32(text)
  } catch {
    mesh = undefined
  }
  if (mesh?.length === 20) return mesh
  throw new MeshError('mesh-id', `"${text}" is no mesh id: 32 letters and digits, as "dropmesh status" prints it`)
}

/** The lines of a file that say something. */
const read = (file: string): Promise<string[]> =>
  readFile(file, 'utf8').then(
    (text) => text.split('\n').flatMap((line) => line.trim() || []),
    (cause) => {
      throw new MeshError('record-file', `${file} cannot be read: ${messageOf(cause)}`, { cause })
    },
  )
