// Keys that people have already: OpenSSH's, in a file or held by an ssh-agent. An Ed25519 key there is one here.
import { createHash, createPrivateKey } from 'node:crypto'
import { readFile } from 'node:fs/promises'
import { homedir } from 'node:os'
import { join } from 'node:path'
import type { OpenSSHAgent, ParsedKey } from 'ssh2'
import { concat, equalBytes, utf8 } from '../protocols/bytes.js'
import { MeshError, messageOf } from '../protocols/error.js'
import { personSigner, verify } from '../protocols/keys.js'
import type { UserSigner } from './keys.js'
import { withPassphrase } from './passphrase.js'

/** Stands for the only Ed25519 key that the ssh-agent holds. */
export const AGENT = 'agent'

const TYPE = 'ssh-ed25519'
// The wire form of a public key (RFC 8709): two strings, each after its length.
const PREFIX = concat(Uint8Array.of(0, 0, 0, TYPE.length), utf8(TYPE), Uint8Array.of(0, 0, 0, 32))

/** A key as `ssh-keygen -l` names it. */
export const fingerprintOf = (publicKey: Uint8Array): string =>
  `SHA256:${createHash('sha256').update(PREFIX).update(publicKey).digest('base64').replace(/=+$/, '')}`

/**
 * Signs with an SSH key: a private one in a file, the one in the agent whose public half is in a file, or the only one in the
 * agent.
 * @throws MeshError `ssh-key`, `ssh-agent`, `which-key`, `wrong-passphrase`, `no-terminal`
 */
export async function sshSigner(where: string): Promise<UserSigner> {
  if (where === AGENT) return agentSigner()
  const { path, text, isPrivate } = await keyFile(where)
  return isPrivate ? privateKey(path, text) : agentSigner({ path, key: publicHalf(await parse(text), path) })
}

/** The public half of such a key. That of a public file needs no agent. */
export async function sshPublicKey(where: string): Promise<Uint8Array> {
  if (where !== AGENT) {
    const { path, text, isPrivate } = await keyFile(where)
    if (!isPrivate) return publicHalf(await parse(text), path)
  }
  return (await sshSigner(where)).publicKey
}

async function keyFile(where: string): Promise<{ path: string; text: string; isPrivate: boolean }> {
  const path = where.startsWith('~/') ? join(homedir(), where.slice(2)) : where // as in --key=~/…, where no shell does it
  const text = await readFile(path, 'utf8').catch((cause) => {
    throw new MeshError('ssh-key', `the key file ${path} cannot be read: ${messageOf(cause)}`, { cause })
  })
  const isPrivate = text.trimStart().startsWith('-----BEGIN OPENSSH PRIVATE KEY-----')
  if (isPrivate || /^(ssh|ecdsa|sk)-\S+ /.test(text)) return { path, text, isPrivate }
  throw new MeshError(
    'ssh-key',
    `${path} is not in OpenSSH's own format${text.startsWith('-----BEGIN ') ? ' but PEM' : ''}; make an Ed25519 key with ` +
      '"ssh-keygen -t ed25519", or one of dropmesh with "dropmesh keys new NAME"',
  )
}

// Loaded only where it is used: it takes as long as all the rest of a short command.
const library = async () => (await import('ssh2')).default

async function parse(text: string, passphrase?: string): Promise<ParsedKey | Error> {
  const { utils } = await library()
  return utils.parseKey(text, passphrase)
}

function publicHalf(key: ParsedKey | Error | undefined, path: string): Uint8Array {
  if (key === undefined) throw damaged(path) // a file of no keys
  if (key instanceof Error) throw new MeshError('ssh-key', `${path} holds no key that can sign here: ${key.message}`)
  if (key.type !== TYPE) {
    throw new MeshError(
      'ssh-key',
      `${path} is a key of type ${key.type}; only ${TYPE} can sign: "ssh-keygen -t ed25519"`,
    )
  }
  const raw = rawKey(key)
  if (raw.length !== 32) throw damaged(path)
  return raw
}

const damaged = (path: string) => new MeshError('ssh-key', `${path} is damaged; take another copy`)

/** The last 32 bytes; fewer where it is no key. */
const rawKey = (key: ParsedKey): Uint8Array => new Uint8Array(key.getPublicSSH().subarray(PREFIX.length))

// The library has no codes for its errors.
const LOCKED = /no passphrase given/
const WRONG_PASSPHRASE = /bad passphrase|unable to authenticate data/

function seedOf(key: ParsedKey, path: string): Uint8Array {
  try {
    const { d } = createPrivateKey(key.getPrivatePEM()).export({ format: 'jwk' })
    return new Uint8Array(Buffer.from(d!, 'base64url'))
  } catch {
    throw damaged(path)
  }
}

/** Rounds of bcrypt by which a passphrase may be made a key: at some 12 ms each. "ssh-keygen -a" takes 16 by default. */
const MAX_ROUNDS = 1024

/** How many rounds the passphrase of a key file costs; 0 where it has none, or is no such file. */
function roundsOf(text: string): number {
  const [, base64 = ''] = /-----BEGIN[^-]+-----([^-]*)/.exec(text) ?? []
  const data = Buffer.from(base64, 'base64')
  // https://github.com/openssh/openssh-portable/blob/master/PROTOCOL.key: magic, then cipher, kdf and its options (salt, rounds).
  let at = 'openssh-key-v1\0'.length
  const length = () => (at + 4 <= data.length ? data.readUInt32BE(at) : 0)
  for (let i = 0; i < 2; i++) at += 4 + length()
  at += 4
  at += 4 + length()
  return length()
}

async function privateKey(path: string, text: string): Promise<UserSigner> {
  const { utils } = await library()
  let key = utils.parseKey(text)
  if (key instanceof Error && LOCKED.test(key.message)) {
    const rounds = roundsOf(text)
    if (rounds > MAX_ROUNDS)
      throw new MeshError(
        'ssh-key',
        `the passphrase of ${path} costs ${rounds} rounds; ${MAX_ROUNDS} are allowed: "ssh-keygen -p"`,
      )
    key = await withPassphrase(path, (passphrase) => {
      const unlocked = utils.parseKey(text, passphrase)
      const isWrong =
        unlocked instanceof Error && (LOCKED.test(unlocked.message) || WRONG_PASSPHRASE.test(unlocked.message))
      return isWrong ? undefined : unlocked
    })
  }
  const publicKey = publicHalf(key, path)
  const signer = personSigner(seedOf(key as ParsedKey, path))
  if (!equalBytes(signer.publicKey, publicKey))
    throw new MeshError('ssh-key', `${path} is damaged: its two halves do not belong together`)
  return signer
}

/** @param wanted the public half of the key that is to sign, and the file it is from */
async function agentSigner(wanted?: { path: string; key: Uint8Array }): Promise<UserSigner> {
  const path = process.env.SSH_AUTH_SOCK
  if (path === undefined || path === '') {
    const instead = wanted === undefined ? '' : `, or name the private key instead of ${wanted.path}`
    throw new MeshError('ssh-agent', `no ssh-agent runs here (SSH_AUTH_SOCK is not set): start one${instead}`)
  }
  const agent = new (await library()).OpenSSHAgent(path)
  const held = (await identities(agent)).filter(({ type }) => type === TYPE)
  const key = wanted === undefined ? onlyOne(held) : held.find((each) => equalBytes(rawKey(each), wanted.key))
  if (key === undefined) {
    const what = wanted === undefined ? 'no Ed25519 key' : `another key than ${wanted.path}`
    const which = wanted === undefined ? '' : ` ${wanted.path.replace(/\.pub$/, '')}`
    throw new MeshError(
      'ssh-agent',
      `the ssh-agent holds ${held.length === 0 ? 'no Ed25519 key' : what}: "ssh-add${which}"`,
    )
  }
  const publicKey = rawKey(key)
  return {
    publicKey,
    async sign(message) {
      const signature = await signWith(agent, key, message)
      if (!verify(publicKey, message, signature))
        throw new MeshError('ssh-agent', 'what the ssh-agent signed does not verify; sign with a key file instead')
      return signature
    },
  }
}

function onlyOne(held: readonly ParsedKey[]): ParsedKey | undefined {
  if (held.length <= 1) return held[0]
  const names = held.map((key) => `${fingerprintOf(rawKey(key))} ${JSON.stringify(key.comment)}`).join(', ')
  throw new MeshError('which-key', `the ssh-agent holds several; name the public file of one with --key: ${names}`)
}

const agentFailed = (cause: Error) => new MeshError('ssh-agent', `the ssh-agent failed: ${cause.message}`, { cause })

const identities = (agent: OpenSSHAgent): Promise<ParsedKey[]> =>
  new Promise((resolve, reject) => {
    agent.getIdentities((error, keys) => (error ? reject(agentFailed(error)) : resolve((keys ?? []) as ParsedKey[])))
  })

/** The agent may ask its user first, for as long as it takes. */
const signWith = (agent: OpenSSHAgent, key: ParsedKey, message: Uint8Array): Promise<Uint8Array> =>
  new Promise((resolve, reject) => {
    agent.sign(key, Buffer.from(message), {}, (error, signature) => {
      if (error || signature === undefined) {
        const why = error?.message === 'Agent responded with failure' ? new Error('it refused to sign') : error
        reject(agentFailed(why ?? new Error('it gave no signature')))
      } else resolve(new Uint8Array(signature))
    })
  })
