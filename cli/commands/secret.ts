// `secret`: what a chute must know and nobody else may. A value comes from a file, a pipe or a terminal, never as an argument, which
// every user of the machine can read; it is sealed here, and the node sees no more of it than any other.
import { readFile } from 'node:fs/promises'
import { buffer } from 'node:stream/consumers'
import type { Command } from 'commander'
import type { ChuteSecrets } from '../../node/api/secrets.js'
import { SECRET_NAME } from '../../protocols/deployment.js'
import { MeshError, messageOf } from '../../protocols/error.js'
import { MAX_SECRET } from '../../protocols/limits.js'
import { clientOf, forNode, type NodeOptions } from '../options.js'
import { ago, colour, print, printJson, printTable, say } from '../output.js'
import { askHidden } from '../passphrase.js'
import { signSecret } from '../sign.js'

interface SigningOptions extends NodeOptions {
  key?: string
}

const KEY = 'name, SSH key file, or agent, to sign with (default: the named key the chute belongs to)'

export function addSecret(program: Command): void {
  const secret = program.command('secret').description('what a chute must know and nobody else may')

  const setting = secret
    .command('set')
    .argument('<chute>', 'name, or publisher/name')
    .argument('<name>', 'as its compose.yaml has it')
    .description('seal a value to the APs that may run the chute; from stdin, or asked for at a terminal')
    .option('--file <file>', 'read the value from a file')
    .option('--key <key>', KEY)
  forNode(setting, 'openssl rand -hex 32 | dropmesh secret set hello token').action(set)

  forNode(
    secret.command('ls').argument('<chute>', 'name, or publisher/name').description('names, and who was given them'),
    'dropmesh secret ls hello',
  ).action(list)

  const removing = secret
    .command('rm')
    .argument('<chute>', 'name, or publisher/name')
    .argument('<name>')
    .description('remove a secret that the chute reads no more')
    .option('--key <key>', KEY)
  forNode(removing, 'dropmesh secret rm hello token').action(remove)
}

async function set(chute: string, name: string, options: SigningOptions & { file?: string }): Promise<void> {
  const client = clientOf(options)
  const known = await secretsOf(options, chute)
  if (!SECRET_NAME.test(name))
    throw new MeshError('secret-name', `"${name}" is no name of a secret: 1 to 32 of a-z, A-Z, 0-9 and "_.-"`)
  const value = await readValue(name, chute, options.file)
  const { holders, sealedTo } = await signSecret(client, known, name, options.key, value)
  if (options.json) return printJson({ chute: known.chute, secret: name, sealedTo, holders })
  print(
    `secret ${name} of ${known.chute} is set, sealed to ${aps(sealedTo)}; ${aps(holders)} ${holders === 1 ? 'holds' : 'hold'} the record`,
  )
  if (known.secrets.find((one) => one.name === name)?.isRead) return
  say(`No service of ${known.chute} reads it yet: name it under "secrets" in its compose.yaml, and publish that.`)
}

const aps = (n: number): string => `${n} ${n === 1 ? 'AP' : 'APs'}`

const secretsOf = (options: NodeOptions, chute: string): Promise<ChuteSecrets> =>
  clientOf(options).get<ChuteSecrets>('/v1/secrets', { of: chute })

async function readValue(name: string, chute: string, file: string | undefined): Promise<Uint8Array> {
  const value = await read(`Value of secret ${name} of ${chute}: `, file)
  if (value.length === 0) throw new MeshError('secret', `secret ${name} would be empty; nothing was set`)
  if (value.length <= MAX_SECRET) return value
  throw new MeshError(
    'secret-too-big',
    `the value has ${value.length} bytes, ${MAX_SECRET} are allowed; nothing was set`,
  )
}

async function read(prompt: string, file: string | undefined): Promise<Uint8Array> {
  if (file === undefined) return process.stdin.isTTY ? Buffer.from(await askHidden(prompt)) : buffer(process.stdin)
  try {
    return await readFile(file)
  } catch (cause) {
    throw new MeshError('secret', `--file ${file} cannot be read: ${messageOf(cause)}`, { cause })
  }
}

async function list(chute: string, options: NodeOptions): Promise<void> {
  const { secrets } = await secretsOf(options, chute)
  if (options.json) return printJson(secrets)
  printTable(
    ['NAME', 'SET', 'BY', 'READ', 'GIVEN TO', 'LACKING'],
    secrets.map(({ name, set: at, by, isRead, aps: given, lacking }) => [
      name,
      at === null ? colour.yellow('never') : ago(at),
      by?.slice(0, 12) ?? '-',
      isRead ? 'yes' : 'no',
      given.join(', '),
      lacking.join(', '),
    ]),
  )
}

async function remove(chute: string, name: string, options: SigningOptions): Promise<void> {
  const known = await secretsOf(options, chute)
  const row = known.secrets.find((one) => one.name === name)
  if (row === undefined || row.set === null)
    throw new MeshError('no-such-secret', `${known.chute} has no secret "${name}"; see "dropmesh secret ls ${chute}"`)
  if (row.isRead) {
    throw new MeshError(
      'in-use',
      `${known.chute} reads secret ${name}: publish a revision that does not, or set another value`,
    )
  }
  const { holders } = await signSecret(clientOf(options), known, name, options.key, undefined)
  if (options.json) return printJson({ chute: known.chute, secret: name, holders })
  print(`secret ${name} of ${known.chute} is removed; ${aps(holders)} ${holders === 1 ? 'holds' : 'hold'} the record`)
}
