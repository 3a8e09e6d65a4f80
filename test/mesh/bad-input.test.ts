// What is wrong gets a clear error that names it, the node stays up, and nothing it had accepted is lost.
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { mkdir, writeFile } from 'node:fs/promises'
import { request } from 'node:http'
import { type AddressInfo, createServer } from 'node:net'
import { join } from 'node:path'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { unhex } from '../../protocols/bytes.js'
import { chuteSubject, newCreation } from '../../protocols/chute.js'
import type { Clock } from '../../protocols/clock.js'
import { seal } from '../../protocols/envelope.js'
import { personSigner } from '../../protocols/keys.js'
import { ensureBusybox } from '../support/busybox.js'
import { type TestAp, TestMesh } from '../support/mesh.js'

const mesh = new TestMesh()
let ap: TestAp
let digest: string
test.before(async () => {
  await ensureBusybox(mesh.docker)
  ap = await mesh.add('ap1')
  assert.is((await mesh.cli(['keys', 'new', 'alice'])).status, 0)
  digest = (await ap.status()).ledger.digest
})
test.after(() => mesh.close())
test.after.each(async () => {
  assert.ok(ap.isRunning)
  assert.is((await ap.status()).ledger.digest, digest, 'the ledger is as it was')
})

async function folder(name: string, files: Record<string, string>): Promise<string> {
  const dir = join(mesh.dir, 'bad', name)
  await mkdir(dir, { recursive: true })
  for (const [file, text] of Object.entries(files)) await writeFile(join(dir, file), text)
  return dir
}

const service = (text: string): string =>
  `name: bad\nservices:\n  web:\n    image: dropmesh-test/busybox\n    ${text}\n`

const manifests: Record<string, [files: Record<string, string>, error: RegExp]> = {
  'a syntax error': [{ 'compose.yaml': 'services: {web: [\n' }, /compose\.yaml:\d+:\d+/],
  'an unknown key': [{ 'compose.yaml': service('colour: blue') }, /compose\.yaml:5:5: services\.web\.colour/],
  'a dangerous key': [{ 'compose.yaml': service('privileged: true') }, /compose\.yaml:5:5: services\.web\.privileged/],
  'a host mount': [{ 'compose.yaml': service('volumes: ["/etc:/host"]') }, /compose\.yaml:5:15: .*\/etc/],
  'a missing build folder': [
    { 'compose.yaml': 'name: bad\nservices:\n  web:\n    build: ./nowhere\n' },
    /compose\.yaml:4:5: services\.web\.build: there is no folder nowhere/,
  ],
  'an image that does not build': [
    {
      'compose.yaml': 'name: bad\nservices:\n  web:\n    build: .\n',
      Dockerfile: 'FROM dropmesh-test/busybox\nRUN echo so it goes; exit 7\n',
    },
    /so it goes[\s\S]*returned a non-zero code: 7/,
  ],
  'an image that is nowhere': [
    { 'compose.yaml': 'name: bad\nservices:\n  web:\n    image: 127.0.0.1:1/no/such:image\n' },
    /127\.0\.0\.1:1\/no\/such:image/,
  ],
  'no manifest': [{ README: '' }, /has no compose\.yaml/],
}

for (const [what, [files, error]] of Object.entries(manifests)) {
  test(`${what} is refused by name`, async () => {
    const { status, stdout, stderr } = await ap.cli('publish', await folder(what.replaceAll(' ', '-'), files))
    assert.is(status, 1)
    assert.is(stdout, '')
    assert.match(stderr, error)
  })
}

const settings: Record<string, [args: string[], config: string | undefined, error: RegExp]> = {
  'a config file that is no YAML': [[], 'name: [', /config\.yaml is no YAML/],
  'an unknown setting': [[], 'colour: blue', /config\.yaml.*colour/],
  'a name with a space': [['--name', 'two words'], undefined, /name "two words"/],
  'a label without a value': [['--label', 'site'], undefined, /label "site"/],
  'an address that is none': [['--listen', 'here'], undefined, /here/],
  'a ticket that is none': [['--join', 'garbage'], undefined, /not a ticket/],
  'an engine URL that is none': [['--docker-host', 'ftp://x'], undefined, /ftp:\/\/x/],
  'an API address that is none': [['--http', 'here'], undefined, /--http "here"/],
}

const taken = createServer().listen(0, '127.0.0.1').unref()
await once(taken, 'listening')
const { port } = taken.address() as AddressInfo
settings['a port to listen on that is taken'] = [
  ['--listen', `/ip4/127.0.0.1/tcp/${port}`],
  undefined,
  new RegExp(`cannot listen: /ip4/127.0.0.1/tcp/${port}: .*address already in use.*; choose other addresses`),
]
settings['an API address that is taken'] = [
  ['--http', `127.0.0.1:${port}`],
  undefined,
  new RegExp(`cannot listen on 127.0.0.1:${port}: .*address already in use`),
]
settings['a data folder too deep for a socket'] = [
  ['--data', join(mesh.dir, 'deep'.repeat(30))],
  undefined,
  /--data .*: too long by \d+ bytes for a socket in it/,
]

for (const [what, [args, config, error]] of Object.entries(settings)) {
  test(`up with ${what} ends with a clear error`, async () => {
    const data = await folder(what.replaceAll(' ', '-'), config === undefined ? {} : { 'config.yaml': config })
    const { status, stderr } = await mesh.cli([
      'up',
      '--data',
      data,
      '--no-mdns',
      '--listen',
      '/ip4/127.0.0.1/tcp/0',
      ...args,
    ])
    assert.is(status, 1)
    const complaints = stderr.split('\n').filter((line) => line !== '' && !line.startsWith('{"level":30'))
    assert.is(complaints.length, 1, stderr)
    assert.match(complaints[0]!, error)
  })
}

interface Next {
  mesh: string
  clock: Clock
}

async function wanted(change: { mesh?: Uint8Array; clock?: Clock; padding?: number } = {}): Promise<Uint8Array> {
  const signer = personSigner(new Uint8Array(randomBytes(32)))
  const publisher = Buffer.from(signer.publicKey).toString('hex')
  const next = await ap.client.get<Next>('/v1/next', { publisher, name: 'ghost' })
  const creation = newCreation(0, new Uint8Array(8))
  const body = { creation, desired: 'stopped', restarts: 0 }
  return seal(
    signer,
    change.mesh ?? unhex(next.mesh),
    change.clock ?? next.clock,
    'wanted',
    chuteSubject(signer.publicKey, 'ghost'),
    body,
  ).bytes
}

async function refusal(bytes: Uint8Array): Promise<string> {
  try {
    await ap.client.post('/v1/records', bytes)
  } catch (error) {
    return (error as { code: string }).code
  }
  return 'accepted'
}

test('a record with a wrong signature, of another mesh, too big, from the future, or no record at all is refused with its reason', async () => {
  const good = await wanted()
  const forged = good.slice()
  forged[forged.length - 1]! ^= 1
  assert.is(await refusal(forged), 'bad-signature')
  assert.is(await refusal(await wanted({ mesh: new Uint8Array(20) })), 'other-mesh')
  assert.is(await refusal(await wanted({ clock: [Date.now() + 10 * 60_000, 0] })), 'clock-ahead')
  assert.is(await refusal(new Uint8Array(33 * 1024)), 'record-too-big')
  for (let i = 0; i < 50; i++) assert.is(await refusal(new Uint8Array(randomBytes(1 + i * 20))), 'malformed')
})

test('an outdated record is refused', async () => {
  const signer = personSigner(new Uint8Array(32).fill(7))
  const publisher = Buffer.from(signer.publicKey).toString('hex')
  assert.is((await ap.cli('grant', publisher)).status, 0)
  const next = await ap.client.get<Next>('/v1/next', { publisher, name: 'old' })
  const at = (ms: number) =>
    seal(signer, unhex(next.mesh), [ms, 0], 'wanted', chuteSubject(signer.publicKey, 'old'), {
      creation: newCreation(0, new Uint8Array(8)),
      desired: 'stopped',
      restarts: 0,
    }).bytes
  assert.is(await refusal(at(2000)), 'accepted')
  assert.is(await refusal(at(3000)), 'accepted')
  digest = (await ap.status()).ledger.digest
  assert.is(await refusal(at(1000)), 'outdated')
})

test('garbage sent to the API gets an answer and harms nothing', async () => {
  const status = (method: string, path: string, body: string) =>
    new Promise<number>((resolve, reject) => {
      const sent = request({ socketPath: join(ap.data, 'dropmesh.sock'), method, path, agent: false }, (response) => {
        response.resume().on('end', () => resolve(response.statusCode!))
      })
      sent.on('error', reject).end(body)
    })
  for (const path of ['/v1/nonsense', '/', '/v1/records']) assert.is(await status('GET', path, ''), 404, path)
  for (const path of ['/v1/next', '/v1/next?publisher=x&name=y', '/v1/inspect?of=nobody', '/v1/chute', '/v1/voters'])
    assert.is(await status('GET', path, ''), 400, path)
  for (const path of ['/v1/approve', '/v1/images/resolve']) {
    assert.is(await status('POST', path, '{{{'), 400, path)
    assert.is(await status('POST', path, '[1]'), 400, path)
  }
})

test('a node without an engine runs, joins, says so, and takes no instances; others do', async () => {
  const bare = await mesh.add('bare', { args: ['--docker-host', 'unix:///nonexistent/docker.sock'] })
  await mesh.settled()
  const { docker, state, warnings } = await bare.status()
  assert.is(docker, null)
  assert.is(state, 'running')
  assert.ok(warnings.some((warning) => warning.includes('no container engine answers')))
  const refused = await bare.cli('publish', await mesh.chute('any', { main: {} }))
  assert.is(refused.status, 1)
  assert.match(refused.stderr, 'AP bare has no container engine to build with')
  const { placed } = await mesh.publish(ap, 'any', {}, ['--replicas', '2'])
  assert.equal(new Set(placed.map((row) => row.ap)).size, 1)
  digest = (await ap.status()).ledger.digest
})

test.run()
