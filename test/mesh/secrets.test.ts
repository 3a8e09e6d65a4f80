// Secrets on real nodes and containers: from the command line into a container's memory, past every disk, log and answer; to the AP
// that takes over after a power cut, to one that joined later, and with a new value.
import { execFileSync } from 'node:child_process'
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import type { SecretRow } from '../../node/api/secrets.js'
import { unhex, utf8 } from '../../protocols/bytes.js'
import { secretSubject } from '../../protocols/chute.js'
import { seal } from '../../protocols/envelope.js'
import { apSigner } from '../../protocols/keys.js'
import { refusalOf, seed } from '../node/realm.js'
import { ensureBusybox } from '../support/busybox.js'
import { eventually, main, type TestAp, TestMesh } from '../support/mesh.js'
import { atTerminal } from '../support/terminal.js'

/** What is looked for everywhere. */
const FIRST = 'value-7f3a9c51e2d84b60-first'
const SECOND = 'value-7f3a9c51e2d84b60-second'

const mesh = new TestMesh()
let one: TestAp
let two: TestAp
test.before(async () => {
  await ensureBusybox(mesh.docker)
  await mesh.start(2, (i) => ({ labels: [`number=${i}`] }))
  ;[one, two] = mesh.aps as [TestAp, TestAp]
})
test.after(async () => {
  await mesh.close()
  for (const { id } of mesh.aps) rmSync(join('/dev/shm/dropmesh', id), { recursive: true, force: true })
  for (const { id } of mesh.aps) rmSync(join('/run/dropmesh', id), { recursive: true, force: true })
})

const SECRETS = { secrets: { token: { external: true }, key: { external: true } } }
const READER = {
  user: '1000:1000',
  stop_grace_period: '0s',
  secrets: ['token', { source: 'key', target: 'tls.key', uid: '1000', mode: '0400' }],
}

/** Runs the command line with a value on its standard input. */
const piped = (ap: TestAp, value: string | Buffer, ...args: string[]): string =>
  execFileSync(process.execPath, [main, ...args, '--data', ap.data], {
    input: value,
    env: { ...process.env, ...mesh.env },
    encoding: 'utf8',
    stdio: ['pipe', 'pipe', 'pipe'],
  })

async function inContainer(id: string, line: string): Promise<string> {
  const exec = await mesh.docker
    .getContainer(id)
    .exec({ Cmd: ['sh', '-c', line], AttachStdout: true, AttachStderr: true })
  const stream = await exec.start({})
  const chunks: Buffer[] = []
  for await (const chunk of stream) chunks.push(chunk as Buffer)
  const all = Buffer.concat(chunks)
  let text = ''
  for (let at = 0; at + 8 <= all.length; ) {
    const size = all.readUInt32BE(at + 4)
    text += all.subarray(at + 8, at + 8 + size).toString()
    at += 8 + size
  }
  return text.trim()
}

const rowsOf = (ap: TestAp): Promise<SecretRow[]> => ap.json<SecretRow[]>('secret', 'ls', 'vault')

test('a chute waits for its secrets, and says for which; with them it runs and reads them, each with its owner and mode', async () => {
  await mesh.publish(one, 'vault', READER, ['--detach'], SECRETS)
  const waiting = await eventually('the reason', async () =>
    (await two.instances()).find(({ reason }) => reason?.startsWith('waits for')),
  )
  assert.is(waiting.reason, 'waits for secret key: dropmesh secret set vault key')
  assert.is(waiting.state, 'waiting')

  const file = join(mesh.dir, 'key.pem')
  writeFileSync(file, Buffer.from([0, 255, 10, 13]))
  const byFile = await one.cli('secret', 'set', 'vault', 'key', '--file', file)
  assert.is(byFile.status, 0, byFile.stderr)
  assert.match(piped(one, FIRST, 'secret', 'set', 'vault', 'token'), /^secret token of vault is set, sealed to 2 APs; /)

  const [container] = await mesh.running('vault')
  assert.is(await inContainer(container!.id, 'cat /run/secrets/token'), FIRST)
  assert.is(await inContainer(container!.id, 'od -An -tx1 /run/secrets/tls.key'), '00 ff 0a 0d')
  assert.is(
    await inContainer(container!.id, 'cd /run/secrets; stat -c "%n %a %u:%g" *'),
    'tls.key 400 1000:0\ntoken 444 0:0',
  )
  assert.match(
    await inContainer(container!.id, 'grep " /run/secrets " /proc/mounts'),
    /^tmpfs \/run\/secrets tmpfs ro,/,
  )
  assert.match(
    await inContainer(container!.id, 'echo x > /run/secrets/token; rm /run/secrets/tls.key'),
    /Read-only.*\n.*Read-only/s,
  )
})

test('a value is nowhere in clear: not in the ledger, in what Docker says, in logs, events or any answer', async () => {
  const [container] = await mesh.running('vault')
  const answers = await Promise.all(
    ['status', 'aps', 'chutes', 'instances', 'inspect?of=vault', 'history?of=vault', 'secrets?of=vault', 'grants'].map(
      (path) => one.client.get<object>(`/v1/${path}`),
    ),
  )
  const seen: Record<string, string> = {
    answers: JSON.stringify(answers),
    events: JSON.stringify(await Promise.all([one.events(), two.events()])),
    logs: one.log + two.log,
    docker: JSON.stringify(await mesh.docker.getContainer(container!.id).inspect()),
    environment: await inContainer(container!.id, 'env; cat /proc/1/environ'),
    inspect: (await two.cli('inspect', 'vault')).stdout,
  }
  for (const ap of mesh.aps) for (const path of filesBelow(ap.data)) seen[path] = readFileSync(path, 'latin1')
  const paths = Object.keys(seen).filter((path) => /ledger\/.*\.log$/.test(path))
  assert.ok(paths.length >= 2 && paths.every((path) => seen[path]!.includes('vault')), 'the ledgers were looked into')
  for (const [where, text] of Object.entries(seen)) {
    for (const form of [FIRST, Buffer.from(FIRST).toString('hex'), Buffer.from(FIRST).toString('base64').slice(0, 30)])
      assert.not(text.includes(form), `${where} has it`)
  }
  assert.match(seen.inspect!, /name: token/)
  assert.not.match(seen.inspect!, /\/run\/secrets/)
  const rows = await rowsOf(two)
  assert.equal(
    rows.map(({ name, isRead, aps, lacking }) => ({ name, isRead, aps: aps.sort(), lacking })),
    ['key', 'token'].map((name) => ({ name, isRead: true, aps: ['ap1', 'ap2'], lacking: [] })),
  )
})

/** Every file that is one: a socket is none. */
const filesBelow = (dir: string): string[] =>
  readdirSync(dir, { recursive: true, encoding: 'utf8' })
    .map((name) => join(dir, name))
    .filter((path) => statSync(path).isFile())

test('a new value takes the place of the old one in the running chute, and nothing of the old one stays in memory', async () => {
  const [before] = await mesh.running('vault')
  const [source] = (await mesh.docker.getContainer(before!.id).inspect()).Mounts.filter(
    ({ Destination }) => Destination === '/run/secrets',
  )
  assert.is(readFileSync(join(source!.Source, 'token'), 'utf8'), FIRST)
  const screen = await atTerminal(['secret', 'set', 'vault', 'token', '--data', one.data], mesh.env, [
    [/Value of secret token of vault: /, SECOND],
  ])
  assert.is(screen.status, 0, screen.screen)
  assert.not(screen.screen.includes(SECOND), 'it stands on the screen')
  const after = await eventually('the new container', async () => {
    const [container] = await mesh.running('vault')
    return container!.id !== before!.id && container!
  })
  assert.is(await inContainer(after.id, 'cat /run/secrets/token'), SECOND)
  await eventually('the old value to go', () => !existsSync(source!.Source))
})

/** Where on this machine the secrets of a container are, and that nobody but root gets there. */
async function folderOf(id: string): Promise<string> {
  const { Mounts } = await mesh.docker.getContainer(id).inspect()
  const { Source } = Mounts.find(({ Destination }) => Destination === '/run/secrets')!
  const above = Source.slice(0, Source.indexOf('/dropmesh') + '/dropmesh'.length)
  assert.is(statSync(above).mode & 0o777, 0o700)
  assert.is(execFileSync('stat', ['-f', '-c', '%T', Source], { encoding: 'utf8' }).trim(), 'tmpfs')
  return Source
}

test('what is set comes from no argument, is not empty, not too big, and by its publisher alone', async () => {
  const refused = async (why: RegExp, status: number, ...args: string[]) => {
    const outcome = await one.cli('secret', ...args)
    assert.is(outcome.status, status, outcome.stderr)
    assert.match(outcome.stderr, why)
  }
  const big = join(mesh.dir, 'big')
  writeFileSync(big, Buffer.alloc(16 * 1024 + 1))
  assert.is((await mesh.cli(['keys', 'new', 'eve'])).status, 0)
  await Promise.all([
    refused(/too many arguments/, 2, 'set', 'vault', 'token', FIRST),
    refused(/would be empty/, 1, 'set', 'vault', 'token'), // its stdin is /dev/null
    refused(/has 16385 bytes, 16384 are allowed/, 1, 'set', 'vault', 'token', '--file', big),
    refused(/cannot be read/, 1, 'set', 'vault', 'token', '--file', `${big}-not`),
    refused(/is no name of a secret/, 1, 'set', 'vault', '../token', '--file', big),
    refused(/there is no chute "shop"/, 1, 'set', 'shop', 'token', '--file', big),
    refused(/belongs to publisher/, 1, 'set', 'vault', 'token', '--file', join(mesh.dir, 'key.pem'), '--key', 'eve'),
    refused(/vault reads secret token/, 1, 'rm', 'vault', 'token'),
    refused(/vault has no secret "other"/, 1, 'rm', 'vault', 'other'),
  ])
})

test('another publisher removes no secret of a chute, and sets none, whatever it signs and hands to a node', async () => {
  const { publisher } = await one.client.get<{ publisher: string }>('/v1/chute', { of: 'vault' })
  const next = await one.client.get<{ mesh: string; creation: string }>('/v1/next', { publisher, name: 'vault' })
  const [owner, realm, creation] = [unhex(publisher), unhex(next.mesh), unhex(next.creation)]
  const thief = apSigner(seed())
  const grant = { role: 'publisher', expires: 0 }
  const hand = ({ bytes }: { bytes: Uint8Array }) => one.client.post('/v1/records', bytes)
  await hand(seal(await mesh.adminOf(one), realm, [Date.now(), 0], 'grant', thief.publicKey, grant))
  const before = await rowsOf(one)
  const sealed = { value: utf8('a value of the thief'), ephemeral: seed(), keys: [] }
  const inItsName = { ...thief, publicKey: owner }
  for (const body of [{ creation }, { creation, sealed }]) {
    const by = (signer: typeof thief, of = owner) =>
      seal(signer, realm, [Date.now(), 0], 'secret', secretSubject(of, 'vault', 'token'), body)
    await refusalOf(hand(by(thief)), 'malformed')
    await refusalOf(hand(by(inItsName)), 'bad-signature')
    await hand(by(thief, thief.publicKey)) // of a chute of its own that is called the same
  }
  await mesh.settled()
  for (const ap of [one, two]) {
    const rows = await rowsOf(ap)
    assert.equal(
      rows.map(({ name, set, by, aps }) => ({ name, set, by, aps })),
      before.map(({ name, set, by, aps }) => ({ name, set, by, aps })),
    )
  }
})

test('a node that starts again goes on with the running chute; after a reboot of its host it has the secrets before the chute starts', async () => {
  await mesh.publish(one, 'pinned', { ...READER, secrets: ['token'] }, ['--detach', '--on', 'number=2'], SECRETS)
  piped(one, FIRST, 'secret', 'set', 'pinned', 'token')
  const [before] = await mesh.running('pinned')
  const source = await folderOf(before!.id)
  await two.stop('SIGKILL')
  await two.start()
  await eventually('the node to know the chute', async () =>
    (await two.instances()).some(({ chute, state, ap }) => chute === 'pinned' && state === 'running' && ap === two.id),
  )
  const [same] = await mesh.running('pinned')
  assert.is(same!.id, before!.id)
  assert.is(await inContainer(same!.id, 'cat /run/secrets/token'), FIRST)

  await two.crash()
  const stray = join(source, '..', '..', '..', '00'.repeat(25), 'left-over')
  rmSync(source, { recursive: true })
  mkdirSync(stray, { recursive: true })
  await two.start()
  const again = await eventually('the chute to run again', async () => (await mesh.running('pinned'))[0])
  assert.is(again.id, same!.id, 'it was there, and only had to be started')
  assert.is(await inContainer(again.id, 'cat /run/secrets/token'), FIRST)
  await eventually('what nobody uses to go', () => !existsSync(stray))

  const now = await folderOf(again.id)
  assert.is((await one.cli('rm', 'pinned')).status, 0)
  await eventually('the secrets of what was removed to go', () => !existsSync(join(now, '..', '..')))
})

test('a revision that reads a secret no more leaves it to be removed, and an AP that is forgotten is told of', async () => {
  await mesh.publish(one, 'vault', { ...READER, secrets: ['token'] }, [], { secrets: { token: { external: true } } })
  await mesh.settled()
  const byEve = await two.cli('secret', 'rm', 'vault', 'key', '--key', 'eve')
  assert.is(byEve.status, 1)
  assert.match(byEve.stderr, /belongs to publisher/)
  const { status, stdout, stderr } = await two.cli('secret', 'rm', 'vault', 'key')
  assert.is(status, 0, stderr)
  assert.match(stdout, /^secret key of vault is removed; 2 APs hold/)
  await mesh.settled()
  assert.equal(
    (await rowsOf(one)).map(({ name }) => name),
    ['token'],
  )
  const { publisher } = JSON.parse((await mesh.cli(['keys', 'show', 'default', '--json'])).stdout)
  const { stakes } = await one.client.get<{ stakes: { what: string }[] }>(`/v1/stakes?of=${publisher}`)
  assert.ok(
    stakes.some(({ what }) => what === 'secret token of chute vault'),
    'a revocation would let it stay',
  )
})

test('an AP that joins later is given the secrets; after a power cut the chute reads them where it runs then', async () => {
  const three = await mesh.add('ap3')
  await eventually('ap3 to be given both', async () => (await rowsOf(three)).every(({ aps }) => aps.includes('ap3')))
  await mesh.settled()
  const runsOn = async (aps: readonly TestAp[]): Promise<TestAp> => {
    const next = await eventually('the chute to run elsewhere', async () =>
      (await mesh.containers('vault')).find((found) => found.running && aps.some(({ id }) => id === found.ap)),
    )
    assert.is(await inContainer(next.id, 'cat /run/secrets/token'), SECOND)
    return aps.find(({ id }) => id === next.ap)!
  }
  const holder = await runsOn([one, two, three])
  await holder.crash()
  const others = [one, two, three].filter((ap) => ap !== holder)
  const next = await runsOn(others)
  assert.is((await next.cli('drain')).status, 0)
  const last = await runsOn(others.filter((ap) => ap !== next))
  const kinds = (await last.events()).filter(({ kind }) => kind.startsWith('secret'))
  assert.ok(kinds.some(({ kind, chute, name }) => kind === 'secret-given' && chute === 'vault' && name === 'ap3'))
  if (!one.isRunning) await one.start()
  const { stderr } = await one.cli('forget', 'ap3')
  assert.match(stderr, /It could open these secrets: vault\/token\./)
})

test.run()
