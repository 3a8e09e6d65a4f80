// `dropmesh verify`: who signed what a chute is. Checked here, so that neither the node nor the file it came from need be
// trusted; with a file no node is asked at all.
import { readFile, writeFile } from 'node:fs/promises'
import type { Command } from 'commander'
import type { RevisionRow } from '../../node/api/queries.js'
import { fromBase32, hex } from '../../protocols/bytes.js'
import { readChuteSubject } from '../../protocols/chute.js'
import { open } from '../../protocols/envelope.js'
import { MeshError, messageOf } from '../../protocols/error.js'
import { checkKind, isKind, type RecordOf } from '../../protocols/kinds.js'
import { meshText } from '../../protocols/membership.js'
import type { Client } from '../client.js'
import { listKeys } from '../keys.js'
import { clientOf, forNode, type NodeOptions } from '../options.js'
import { print, printJson } from '../output.js'
import { fingerprintOf } from '../ssh.js'

export function addVerify(program: Command): void {
  const command = program
    .command('verify')
    .argument('<chute>', 'name, or publisher/name')
    .description('check here who signed the revision of a chute that is in force, and for which mesh')
    .requiredOption('--mesh <id>', 'the mesh that it must be signed for')
    .option('--record <file>', 'check what "dropmesh inspect --record" wrote, and ask no node')
  forNode(command, 'dropmesh verify hello --mesh em2ju2ajafxcjgttqc3o2wpskndengjs --record hello.record').action(verify)
}

/** Writes the record of a chute that is in force into a file, as it was signed: a line in base64. */
export async function saveRecord(client: Client, chute: string, file: string): Promise<void> {
  const envelope = await envelopeInForce(client, chute)
  await writeFile(file, `${envelope}\n`).catch((cause) => {
    throw new MeshError('record-file', `${file} cannot be written: ${messageOf(cause)}`, { cause })
  })
}

async function envelopeInForce(client: Client, chute: string): Promise<string> {
  const revisions = await client.get<RevisionRow[]>('/v1/history', { of: chute })
  return (revisions.find(({ state }) => state === 'in-force') ?? revisions[0]!).envelope
}

async function verify(chute: string, options: NodeOptions & { mesh: string; record?: string }): Promise<void> {
  const mesh = meshOf(options.mesh)
  const text =
    options.record === undefined ? await envelopeInForce(clientOf(options), chute) : await read(options.record)
  const record = signedDeployment(text, mesh, options.record ?? 'what the node says')
  const { publisher, name } = readChuteSubject(record.subject)
  const [asked, prefix] = chute.split('/').reverse()
  if (asked !== name || !hex(publisher).startsWith((prefix ?? '').toLowerCase()))
    throw new MeshError('other-chute', `the record is not of ${chute} but of ${hex(publisher).slice(0, 12)}/${name}`)
  const signer = {
    publisher: hex(record.signer),
    ssh: fingerprintOf(record.signer),
    key: (await listKeys()).find((key) => key.publisher === hex(record.signer))?.name ?? null,
  }
  const { revision } = record.body
  const signed = new Date(record.clock[0]).toISOString()
  if (options.json)
    return printJson({ chute: name, revision, signed, hash: hex(record.hash), mesh: options.mesh, signer })
  print(`${name}, revision ${revision}, is signed for mesh ${options.mesh}`)
  const rows = [
    ['Publisher', `${signer.publisher}${signer.key === null ? '' : `, your key ${signer.key}`}`],
    ['SSH key', `${signer.ssh}, as "ssh-keygen -l" names it`],
    ['Signed', `${signed}, by the publisher's clock`],
    ['Hash', hex(record.hash)],
  ]
  for (const [label, value] of rows) print(`${label!.padEnd(10)} ${value}`)
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

const read = (file: string): Promise<string> =>
  readFile(file, 'utf8').catch((cause) => {
    throw new MeshError('record-file', `${file} cannot be read: ${messageOf(cause)}`, { cause })
  })

/** @throws MeshError `record-file` */
function signedDeployment(text: string, mesh: Uint8Array, source: string): RecordOf<'deployment'> {
  try {
    const record = open(new Uint8Array(Buffer.from(text.trim(), 'base64')), mesh)
    checkKind(record)
    if (isKind(record, 'deployment')) return record
    throw new MeshError('malformed', `a ${record.kind} record, where a deployment belongs`)
  } catch (cause) {
    throw new MeshError('record-file', `${source} proves nothing for mesh ${meshText(mesh)}: ${messageOf(cause)}`, {
      cause,
    })
  }
}
