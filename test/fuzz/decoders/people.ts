// What the command line reads on the machine of who types: keys, an agent's answers, what a node sends of a repository.
import { mkdirSync, readdirSync, realpathSync, rmSync } from 'node:fs'
import { createServer } from 'node:net'
import { join } from 'node:path'
import { Readable } from 'node:stream'
import ssh2 from 'ssh2'
import { lock, readLocked, unlock } from '../../../cli/key-file.js'
import { AGENT, sshPublicKey, sshSigner } from '../../../cli/ssh.js'
import { unpack } from '../../../cli/unpack.js'
import { concat, hex, sha256, utf8 } from '../../../protocols/bytes.js'
import { decode, encode } from '../../../protocols/codec.js'
import { AP } from '../../protocols/samples.js'
import { seedOf } from '../../protocols/support.js'
import { scratch } from '../../support/scratch.js'
import { type Decoder, must, text } from './decoder.js'
import { smallFile } from './disk.js'
import { archive, archived, headed, linked, withChecksums } from './packages.js'

const PASSPHRASE = 'correct horse'
const locked = JSON.parse(lock('publisher', 'me', seedOf(1), PASSPHRASE))
const checked = ({ check: _, ...rest }: Record<string, unknown>) => ({
  ...rest,
  check: hex(sha256(utf8(JSON.stringify(rest)))).slice(0, 16),
})
const cheap = (changes: object) => checked({ ...locked, scrypt: { ...locked.scrypt, N: 2, r: 1, ...changes } })

export const keyFile: Decoder = {
  name: 'key-file',
  form: 'json',
  limit: 8 * 1024,
  seeds: [cheap({}), cheap({ N: 2 ** 17 }), cheap({ p: 16 })].map((file) => utf8(JSON.stringify(file))),
  reads: ['cli/key-file.js'],
  quick: 150,
  decode: (input) => {
    let file: unknown
    try {
      // A check that fits, as who alters a file on purpose can make it.
      file = checked(JSON.parse(text(input)))
    } catch {}
    const key = readLocked(file === undefined ? text(input) : JSON.stringify(file), 'a file')
    const { N, r, p } = key.scrypt
    must(128 * N * r * p <= 2 ** 30, 'costs more than is allowed')
    if (N * r * p <= 64) unlock(key, PASSPHRASE, 'a file')
  },
}

const sshFiles = ssh2.utils.generateKeyPairSync('ed25519')
export const sshFile = smallFile(
  'id',
  'cli/ssh.js',
  'text',
  [
    sshFiles.private,
    `${sshFiles.public} me@desk\n`,
    ssh2.utils.generateKeyPairSync('ed25519', { passphrase: 'a', cipher: 'aes256-ctr', rounds: 1 }).private,
  ],
  async (_, path) => {
    must((await sshPublicKey(path)).length === 32, 'a key that is none')
  },
)

/** The lines of an OpenSSH private key, from what is in it. */
export const sshKey: Decoder = {
  ...sshFile,
  name: 'ssh-key',
  form: 'bytes',
  seeds: [Uint8Array.from(Buffer.from(sshFiles.private.split('\n').slice(1, -2).join(''), 'base64'))],
  decode: (input) =>
    sshFile.decode(
      utf8(
        `-----BEGIN OPENSSH PRIVATE KEY-----\n${Buffer.from(input).toString('base64').replace(/.{70}/g, '$&\n')}\n-----END OPENSSH PRIVATE KEY-----\n`,
      ),
    ),
}

/** A public key, from what is in it. */
export const sshPublic: Decoder = {
  ...sshKey,
  name: 'ssh-public',
  seeds: [Uint8Array.from(Buffer.from(sshFiles.public.split(' ')[1]!, 'base64'))],
  decode: (input) => sshFile.decode(utf8(`ssh-ed25519 ${Buffer.from(input).toString('base64')} me\n`)),
}

/** The files of a repository, as the tar that a node sends of it. */
const outside = scratch('fuzz')
const home = join(outside, 'home')
export const sources: Decoder = {
  name: 'sources',
  form: 'bytes',
  limit: 64 * 1024,
  seeds: [
    archive,
    headed('5', utf8('00000000017 ')),
    linked(await archived({ 'a/b': utf8('b'), 'a/link': utf8('') }), 'a/link', 'b'),
    linked(await archived({ 'a/b': utf8('b'), 'a/link': utf8('') }), 'a/link', '../..'),
    linked(await archived({ 'a/link': utf8(''), 'a/link/b': utf8('b') }), 'a/link', '..'),
    // By its text the second one stays inside, and the third one is behind it.
    linked(
      linked(
        linked(await archived({ 'd/up': utf8(''), out: utf8(''), 'out/far/link': utf8('') }), 'd/up', '..'),
        'out',
        'd/up/..',
      ),
      'out/far/link',
      'x',
    ),
    await archived({ [`${'d/'.repeat(60)}${'x'.repeat(90)}`]: utf8('a long name') }),
  ],
  reads: ['cli/unpack.js'],
  quick: 50,
  decode: async (input) => {
    mkdirSync(home)
    try {
      await unpack(Readable.from([withChecksums(input)]), home)
    } finally {
      const astray = [...pathsIn(outside)].find((path) => !`${path}/`.startsWith(`${home}/`) || !leadsInside(path))
      rmSync(home, { recursive: true })
      must(astray === undefined, `${astray} is outside the folder, or leads out of it`)
    }
  },
}

/** All that is in a folder, and nothing behind a link: Node's own search goes on in links for as long as they lead. */
function* pathsIn(folder: string): Generator<string> {
  for (const entry of readdirSync(folder, { withFileTypes: true })) {
    const path = join(folder, entry.name)
    yield path
    if (entry.isDirectory()) yield* pathsIn(path)
  }
}

/** Where something is. A link that leads nowhere may lead there. */
function leadsInside(path: string): boolean {
  try {
    const leads = realpathSync(path)
    return leads === home || leads.startsWith(`${home}/`)
  } catch {
    return true
  }
}

const u32 = (n: number): Uint8Array => Uint8Array.of(n >>> 24, n >>> 16, n >>> 8, n)
const string = (bytes: Uint8Array): Uint8Array => concat(u32(bytes.length), bytes)
const sshBlob = concat(string(utf8('ssh-ed25519')), string(AP.publicKey))
const MESSAGE = utf8('a record')
const sshSignature = concat(string(utf8('ssh-ed25519')), string(AP.sign(MESSAGE)))

/** What an ssh-agent answers: which keys it has, and what it signs; and for each, whether it has the length that it says. */
let agentAnswers: unknown[] = []
const agentPath = join(scratch('fuzz'), 'agent.sock')
createServer((socket) => {
  socket.on('error', () => {})
  socket.on('data', (asked) => {
    const answer = agentAnswers[asked[4] === 11 ? 0 : 1]
    const [isFramed, said] = Array.isArray(answer) ? answer : []
    const bytes = said instanceof Uint8Array ? said : new Uint8Array()
    socket.end(isFramed === 1 ? string(bytes) : bytes)
  })
})
  .listen(agentPath)
  .unref()

export const sshAgent: Decoder = {
  name: 'ssh-agent',
  form: 'cbor',
  limit: 64 * 1024,
  seeds: [
    encode([
      [1, concat(Uint8Array.of(12), u32(1), string(sshBlob), string(utf8('me@desk')))],
      [1, concat(Uint8Array.of(14), string(sshSignature))],
    ]),
    encode([[1, Uint8Array.of(5)]]),
  ],
  reads: ['cli/ssh.js'],
  quick: 50,
  decode: async (input) => {
    const answers = decode(input)
    agentAnswers = Array.isArray(answers) ? answers : []
    process.env.SSH_AUTH_SOCK = agentPath
    const signer = await sshSigner(AGENT)
    must(signer.publicKey.length === 32, 'a key that is none')
    await signer.sign(MESSAGE)
  },
}
