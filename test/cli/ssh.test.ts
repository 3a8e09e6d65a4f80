// Keys of OpenSSH's own tools sign records that a real AP takes.
import { execFileSync, spawn, spawnSync } from 'node:child_process'
import { copyFileSync, existsSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import type { ChuteRow } from '../../node/api/queries.js'
import { ensureBusybox } from '../support/busybox.js'
import { needTools } from '../support/hosts.js'
import { main, type TestAp, TestMesh } from '../support/mesh.js'
import { atExit, scratch } from '../support/scratch.js'
import { atTerminal } from '../support/terminal.js'
import { until } from '../support/until.js'

const PASSPHRASE = 'correct horse ü'
const mesh = new TestMesh()
const dir = scratch('ssh')
const file = (name: string): string => join(dir, name)
let ap: TestAp

/** Makes a key as people do, and returns its file. */
function keygen(name: string, passphrase = '', ...more: string[]): string {
  const type = more.includes('-t') ? [] : ['-t', 'ed25519']
  execFileSync('ssh-keygen', ['-q', ...type, '-N', passphrase, '-C', name, '-f', file(name), ...more])
  return file(name)
}

/** The 32 bytes at the end of the key in a public file, which is how the mesh knows a publisher. */
const publisherOf = (key: string): string =>
  Buffer.from(readFileSync(`${key}.pub`, 'utf8').split(' ')[1]!, 'base64')
    .subarray(-32)
    .toString('hex')

/** A key that may publish. */
async function granted(name: string, passphrase = ''): Promise<string> {
  const key = keygen(name, passphrase)
  assert.is((await ap.cli('grant', publisherOf(key))).status, 0)
  return key
}

async function startAgent(): Promise<string> {
  const socket = file('agent.sock')
  const agent = spawn('ssh-agent', ['-D', '-a', socket], { stdio: 'ignore' })
  atExit(() => void agent.kill())
  agent.unref()
  await until('the ssh-agent to listen', async () => existsSync(socket))
  return socket
}

const add = (socket: string, ...args: string[]) =>
  execFileSync('ssh-add', ['-q', ...args], { env: { ...process.env, SSH_AUTH_SOCK: socket }, stdio: 'ignore' })

const publishing = (key: string, name: string) =>
  ['publish', join(mesh.dir, 'chutes', 'web'), '--name', name, '--key', key, '--data', ap.data] as const

async function published(name: string): Promise<string | undefined> {
  return (await ap.json<ChuteRow[]>('ls')).find(({ chute }) => chute === name)?.publisher
}

/** Runs a command that must be refused, where nobody is at a terminal, and returns its last line, the one that says why. */
function refusal(args: readonly string[], env: NodeJS.ProcessEnv = {}): string {
  const { status, stdout, stderr } = spawnSync('setsid', ['-w', process.execPath, main, ...args], {
    env: { ...process.env, ...mesh.env, SSH_AUTH_SOCK: '', ...env },
    encoding: 'utf8',
  })
  assert.is(status, 1, stderr)
  assert.is(stdout, '')
  assert.match(stderr, /(^|\n)dropmesh: [^\n]+\n$/)
  return stderr.trimEnd().split('\n').at(-1)!
}

test.before(async () => {
  needTools(['ssh-keygen', 'ssh-agent', 'ssh-add', 'script'])
  await ensureBusybox(mesh.docker)
  ap = await mesh.add('ap1')
  await mesh.chute('web', { main: { deploy: { replicas: 0 } } })
})
test.after(() => mesh.close())

test('a key file without a passphrase publishes, and its public half names the publisher', async () => {
  const key = await granted('plain')
  const { status, stderr } = await mesh.cli([...publishing(key, 'plain')])
  assert.is(status, 0, stderr)
  assert.is(await published('plain'), publisherOf(key))
  for (const named of [key, `${key}.pub`]) {
    assert.is((await mesh.cli(['keys', 'show', named])).stdout, `${publisherOf(key)}\n`)
  }
})

test('what an SSH key published is controlled with it, and with no other', async () => {
  const other = await granted('other')
  const args = (key: string) => ['rm', 'plain', '--key', key, '--data', ap.data]
  assert.match(refusal(args(other)), /plain belongs to publisher [0-9a-f]{12}, and .*other is another key/)
  assert.match(refusal(['rm', 'plain', '--data', ap.data]), /where it is an SSH key, say --key/)
  assert.is((await mesh.cli(args(file('plain')))).status, 0)
  assert.is(await published('plain'), undefined)
})

test('the passphrase of a key is asked for on the terminal, again after a mistake, and never shown', async () => {
  const key = await granted('locked', PASSPHRASE)
  const { status, screen } = await atTerminal(publishing(key, 'locked'), mesh.env, [
    [/Passphrase of .*locked: /, 'a mistake'],
    [/Passphrase of .*locked: /, PASSPHRASE],
  ])
  assert.is(status, 0, screen)
  assert.match(screen, /published locked, revision 1/)
  assert.not.match(screen, /mistake|horse/)
  assert.is(await published('locked'), publisherOf(key))
})

test('Ctrl-C at the passphrase ends the command, and so do three mistakes', async () => {
  const prompt = /Passphrase of .*locked: /
  const { status, screen } = await atTerminal(publishing(file('locked'), 'locked'), mesh.env, [[prompt, '\x03']])
  assert.is(status, 1)
  assert.match(screen, /dropmesh: cancelled/)
  const wrong = [prompt, 'wrong'] as const
  const thrice = await atTerminal(publishing(file('locked'), 'locked'), mesh.env, [wrong, wrong, wrong])
  assert.is(thrice.status, 1)
  assert.match(thrice.screen, /this is not the passphrase of .*locked\r\n$/)
})

test('a script names a file with the passphrase', async () => {
  writeFileSync(file('passphrase'), `${PASSPHRASE}\n`)
  const env = { DROPMESH_PASSPHRASE_FILE: file('passphrase') }
  for (const cipher of ['aes256-ctr', 'aes256-cbc', 'aes256-gcm@openssh.com']) {
    const key = keygen(cipher, PASSPHRASE, '-Z', cipher)
    const { status, stdout, stderr } = await mesh.cli(['keys', 'show', key], env)
    assert.is(status, 0, stderr)
    assert.is(stdout, `${publisherOf(key)}\n`)
    writeFileSync(file('wrong'), 'wrong')
    const why = refusal(['keys', 'show', key], { DROPMESH_PASSPHRASE_FILE: file('wrong') })
    assert.match(why, /this is not the passphrase of /)
  }
  assert.match(refusal(['keys', 'show', file('locked')]), /no terminal to ask on .* DROPMESH_PASSPHRASE_FILE/)
  assert.match(
    refusal(['keys', 'show', file('locked')], { DROPMESH_PASSPHRASE_FILE: file('nothing') }),
    /DROPMESH_PASSPHRASE_FILE cannot be read/,
  )
})

test('an ssh-agent signs: with its only Ed25519 key, or with the one whose public file is named', async () => {
  const socket = await startAgent()
  const env = { SSH_AUTH_SOCK: socket }
  assert.match(refusal(publishing('agent', 'x'), env), /the ssh-agent holds no Ed25519 key: "ssh-add"/)
  add(socket, keygen('rsa', '', '-t', 'rsa', '-b', '2048'), file('plain'))
  const first = await mesh.cli([...publishing('agent', 'by-agent')], env)
  assert.is(first.status, 0, first.stderr)
  assert.is(await published('by-agent'), publisherOf(file('plain')))

  assert.match(
    refusal(publishing(`${file('other')}.pub`, 'x'), env),
    /the ssh-agent holds another key than .*other\.pub: "ssh-add .*other"/,
  )
  add(socket, file('other'))
  assert.match(refusal(publishing('agent', 'x'), env), /holds several; .* SHA256:\S{43} "plain", SHA256:\S{43} "other"/)
  const second = await mesh.cli([...publishing(`${file('other')}.pub`, 'by-other')], env)
  assert.is(second.status, 0, second.stderr)
  assert.is(await published('by-other'), publisherOf(file('other')))
})

test('a record tells offline which SSH key signed it, as ssh-keygen names that key', async () => {
  const record = file('by-agent.record')
  await ap.json('inspect', 'by-agent', '--record', record)
  const verified = await mesh.cli(['verify', 'by-agent', '--record', record, '--mesh', (await mesh.meshId())!])
  assert.is(verified.status, 0, verified.stderr)
  const fingerprint = execFileSync('ssh-keygen', ['-lf', `${file('plain')}.pub`], { encoding: 'utf8' }).split(' ')[1]!
  assert.ok(verified.stdout.includes(fingerprint), verified.stdout)
  assert.ok(verified.stdout.includes(publisherOf(file('plain'))), verified.stdout)
})

test('an agent that refuses, or is gone, is told in one line', async () => {
  const env = { SSH_AUTH_SOCK: file('agent.sock') }
  // With a confirmation that nobody can give: there is no program here that asks for one.
  const asking = await granted('asking')
  add(env.SSH_AUTH_SOCK, '-c', asking)
  assert.match(refusal(publishing(`${asking}.pub`, 'x'), env), /the ssh-agent failed: it refused to sign/)
  assert.match(refusal(publishing('agent', 'x'), { SSH_AUTH_SOCK: file('none') }), /the ssh-agent failed: .*connect/)
  assert.match(
    refusal(publishing(`${file('plain')}.pub`, 'x')),
    /no ssh-agent runs here \(SSH_AUTH_SOCK is not set\): start one, or name the private key instead of .*plain\.pub/,
  )
})

test('a file that holds no usable key is refused in one line that says why', () => {
  const pem = file('pem')
  copyFileSync(file('rsa'), pem)
  execFileSync('ssh-keygen', ['-q', '-p', '-N', '', '-m', 'PEM', '-f', pem])
  const ecdsa = keygen('ecdsa', '', '-t', 'ecdsa')
  const halved = file('halved')
  const lines = readFileSync(file('plain'), 'utf8').split('\n')
  writeFileSync(halved, lines.filter((_, i) => i !== 2).join('\n'))
  writeFileSync(file('text'), 'hello')
  // In an OpenSSH file bcrypt's rounds come right after its salt, of 16 bytes.
  const endless = readFileSync(file('locked'), 'utf8').split('\n')
  const inside = Buffer.from(endless.slice(1, -2).join(''), 'base64')
  inside.writeUInt32BE(2 ** 31, inside.indexOf('bcrypt') + 'bcrypt'.length + 4 + 4 + 16)
  writeFileSync(file('endless'), [endless[0], inside.toString('base64'), ...endless.slice(-2)].join('\n'))
  for (const [key, why] of [
    [file('rsa'), /rsa is a key of type ssh-rsa; only ssh-ed25519 can sign/],
    [`${file('rsa')}.pub`, /rsa\.pub is a key of type ssh-rsa/],
    [ecdsa, /type ecdsa-sha2-nistp256/],
    [pem, /pem is not in OpenSSH's own format but PEM; make an Ed25519 key with "ssh-keygen -t ed25519"/],
    [halved, /halved holds no key that can sign here: Malformed OpenSSH private key/],
    [file('endless'), /the passphrase of .*endless costs 2147483648 rounds; 1024 are allowed/],
    [file('text'), /text is not in OpenSSH's own format/],
    [file('nothing'), /the key file .*nothing cannot be read/],
    [dir, /cannot be read: EISDIR/],
    ['plain', /there is no key "plain"; see "dropmesh keys ls", or name a file as \.\/plain/],
  ] as const) {
    assert.match(refusal(publishing(key, 'x')), why)
  }
})

test.run()
