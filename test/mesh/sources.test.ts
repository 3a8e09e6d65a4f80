// What can be published beside a folder, through the real command line, a real node, git and Docker.

import { execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdirSync, readdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:http'
import { type AddressInfo, createServer as createSilent } from 'node:net'
import { join } from 'node:path'
import { pack } from 'tar-stream'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { Client } from '../../cli/client.js'
import type { PublishPlan } from '../../cli/publish-plan.js'
import { unpack } from '../../cli/unpack.js'
import type { InstanceRow } from '../../node/api/queries.js'
import { buildImage } from '../../node/packages/build.js'
import { collect } from '../../node/packages/tar.js'
import { refusalOf } from '../node/realm.js'
import { BUSYBOX, ensureBusybox } from '../support/busybox.js'
import { GitServer } from '../support/git.js'
import { needTools } from '../support/hosts.js'
import { eventually, main, TestMesh } from '../support/mesh.js'
import { scratch } from '../support/scratch.js'

needTools(['git'])
const server = await GitServer.start()
const mesh = new TestMesh()
test.after(() => mesh.close())
/** Where the command line unpacks what it fetched. */
const tmp = join(mesh.dir, 'tmp')
mkdirSync(tmp)
mesh.env.TMPDIR = tmp

const LIMITS = "deploy: {resources: {limits: {cpus: '0.2', memory: 32m}}}"
const SERVE = '["httpd", "-f", "-p", "8080", "-h", "/www"]'

const page = async (port: number): Promise<string> =>
  (await fetch(`http://127.0.0.1:${port}/`, { signal: AbortSignal.timeout(1000) })).text()
const served = (chute: string, text: string): Promise<InstanceRow> =>
  eventually(`${chute} to serve`, async () => {
    const row = (await mesh.aps[0]!.instances()).find((one) => one.chute === chute)
    return row?.ports[0] !== undefined && (await page(row.ports[0].host)).trim() === text && row
  })

test.before(async () => {
  await ensureBusybox(mesh.docker)
  const [ap] = await mesh.start(1)
  assert.is((await ap!.cli('grant', 'default')).status, 0)
})

/** What lies in the folders of a fetch, on either side. */
const leftovers = (): string[] => [
  ...readdirSync(tmp),
  ...readdirSync(mesh.aps[0]!.data).flatMap((name) =>
    name === 'sources' ? readdirSync(join(mesh.aps[0]!.data, name)) : [],
  ),
]

test('a chute is published from a git URL with ref and folder, and serves what that revision has', async () => {
  const shop = server.repository('shop.git')
  const compose = `services:
  web:
    build: ./site
    command: ${SERVE}
    ports: ["8080"]
    environment: {WHO: "\${WHO:-nobody}", HOME_OF: "\${HOME:-none}"}
    ${LIMITS}
`
  const dockerfile = `FROM ${BUSYBOX}\nCOPY index.html /www/\n`
  shop.write({ 'apps/front/compose.yaml': compose, 'apps/front/site/Dockerfile': dockerfile })
  shop.write({ 'apps/front/site/index.html': 'the first' })
  shop.commit()
  shop.git('tag', 'v1')
  shop.write({ 'apps/front/site/index.html': 'the second' }).commit()

  const [ap] = mesh.aps
  const url = server.url('shop.git', '#v1:apps/front')
  const dry = await ap!.cli('publish', url, '--dry-run', '--json', '--env', 'WHO=alice')
  assert.is(dry.status, 0, dry.stderr)
  const plan = JSON.parse(dry.stdout) as PublishPlan
  // A stranger's manifest gets none of this environment but what is named.
  assert.equal([plan.chute, plan.services[0]!.build, plan.variables], ['front', 'site', ['WHO']])

  const published = await ap!.cli('publish', url, '--json')
  assert.is(published.status, 0, published.stderr)
  assert.is((JSON.parse(published.stdout) as { chute: string }).chute, 'front')
  assert.match(published.stderr, `fetching ${url}`)
  await served('front', 'the first')
  assert.equal(leftovers(), [])

  assert.is((await ap!.cli('publish', server.url('shop.git', '#main:apps/front'))).status, 0)
  await served('front', 'the second')
  const none = await ap!.cli('publish', server.url('shop.git', '#v2:apps/front'))
  assert.is(none.status, 1)
  assert.match(none.stderr, 'it has no tag or branch v2')
  assert.match((await ap!.cli('publish', server.url('shop.git'))).stderr, 'has no compose.yaml')
  assert.equal(leftovers(), [])
})

test('who stops a publish amid a fetch leaves nothing of it, here and on the node', async () => {
  const silent = createSilent((socket) => socket.on('error', () => {}))
  await new Promise<void>((resolve) => silent.listen(0, '127.0.0.1', resolve))
  const url = `git://127.0.0.1:${(silent.address() as AddressInfo).port}/x`
  const args = [main, 'publish', url, '--data', mesh.aps[0]!.data]
  const publishing = spawn(process.execPath, args, { stdio: 'ignore', env: { ...process.env, ...mesh.env } })
  const ended = once(publishing, 'exit')
  await eventually('both sides to be at it', () => leftovers().length === 2)
  publishing.kill('SIGINT')
  assert.equal(await ended, [null, 'SIGINT'])
  assert.equal(readdirSync(tmp), [])
  await eventually('the node to be done with it', () => leftovers().length === 0)
  silent.close()
})

test('a build takes its context from a git repository, by URL alone or with its Dockerfile', async () => {
  const site = server.repository('site')
  site.write({ 'sub/docker/Dockerfile': `FROM ${BUSYBOX}\nCOPY page /www/index.html\n`, 'sub/page': 'from elsewhere' })
  site.commit()
  const dir = await mesh.chute('far', {
    main: {
      image: undefined,
      build: { context: server.url('site', '#main:sub'), dockerfile: 'docker/Dockerfile' },
      command: JSON.parse(SERVE) as string[],
      ports: ['8080'],
    },
  })
  const [ap] = mesh.aps
  const published = await ap!.cli('publish', dir)
  assert.is(published.status, 0, published.stderr)
  assert.match(published.stderr, `building main from ${server.url('site', '#main:sub')}`)
  await served('far', 'from elsewhere')
  assert.equal(leftovers(), [])
})

test('a manifest gets no folder of who publishes it into a build, whichever way links lead', async () => {
  const secret = join(mesh.dir, 'secret')
  mkdirSync(secret)
  writeFileSync(join(secret, 'Dockerfile'), `FROM ${BUSYBOX}\nCOPY . /www/\n`)
  const dir = await mesh.chute('thief', { main: { image: undefined, build: 'out' } })
  symlinkSync(secret, join(dir, 'out'))
  const local = await mesh.aps[0]!.cli('publish', dir)
  assert.is(local.status, 1)
  assert.match(local.stderr, 'services.main.build: out leads out of the folder of the manifest')

  const thief = server.repository('thief')
  thief.write({ 'compose.yaml': 'services: {main: {build: out}}' })
  symlinkSync(secret, join(thief.dir, 'out'))
  thief.commit()
  const far = await mesh.aps[0]!.cli('publish', server.url('thief'))
  assert.is(far.status, 1)
  assert.match(far.stderr, '"out" is a link out of the folder, and is left out')
})

test('an image alone runs as docker run would have it', async () => {
  const [ap] = mesh.aps
  await mesh.docker.getImage(BUSYBOX).tag({ repo: 'dropmesh-test/my_web', tag: '1.2' })
  try {
    const flags = ['--port', '8080', '--env', 'PRICE=$5', '--volume', 'data:/data', '--detach']
    const published = await ap!.cli('publish', '--image', 'dropmesh-test/my_web:1.2', ...flags, '--json')
    assert.is(published.status, 0, published.stderr)
    assert.is((JSON.parse(published.stdout) as { chute: string }).chute, 'my-web')
    const { stdout } = await ap!.cli('history', 'my-web', '--json')
    const [{ manifest }] = JSON.parse(stdout) as [{ manifest: string }]
    for (const what of ['PRICE', '$5', '8080', 'data:/data'])
      assert.ok(manifest.includes(what), `${what} in ${manifest}`)
  } finally {
    await mesh.docker.getImage('dropmesh-test/my_web:1.2').remove()
  }
})

test('what is wrong with an image alone is told by option, and its options are for nothing else', async () => {
  const dry = (...args: string[]) => mesh.cli(['publish', '--dry-run', '--data', join(mesh.dir, 'none'), ...args])
  const wrong = await dry('--image', 'x', '--port', '99999', '--env', '1=2', '--volume', '/etc:/etc', '--volume', 'a:b')
  assert.is(wrong.status, 1)
  for (const what of [
    /--port 99999: "99999" is not a port/,
    /--env 1=2: "1" is not the name of a variable/,
    /--volume \/etc:\/etc: "\/etc" is a path on the host/,
    /--volume a:b: "b" is not an absolute path/,
  ])
    assert.match(wrong.stderr, what)
  assert.match((await dry('--image', '-x')).stderr, /--image: "-x" is not the name of an image/)
  const dir = await mesh.chute('plain', { main: {} })
  assert.match((await dry(dir, '--image', 'x')).stderr, '--image is for an image alone')
  assert.match((await dry(dir, '--port', '80')).stderr, '--port is for an image alone')
})

/** A tar in whose entries anything may stand. */
async function tarWith(
  entries: (Parameters<ReturnType<typeof pack>['entry']>[0] & { content?: string })[],
): Promise<Buffer> {
  const tar = pack()
  for (const { content, ...header } of entries) tar.entry(header, content ?? '')
  tar.finalize()
  return collect(tar as AsyncIterable<Uint8Array>)
}

test('an archive is known by what is in it, and its only image becomes a chute', async () => {
  const files = {
    'app-1.2.tar': await tarWith([{ name: 'manifest.json', content: '[]' }]),
    'not.tar': 'services: {a: {image: x}}',
  }
  for (const [name, content] of Object.entries(files)) writeFileSync(join(mesh.dir, name), content)
  const plan = async (...args: string[]) => {
    const { stdout, stderr } = await mesh.cli(['publish', '--dry-run', '--json', ...args])
    assert.ok(stdout, stderr)
    return JSON.parse(stdout) as PublishPlan
  }
  const archive = await plan('app-1.2.tar', '--port', '80:8080')
  assert.equal([archive.chute, archive.services[0]!.ports], ['app-1-2', ['80->8080/tcp']])
  assert.is((await plan('not.tar')).services[0]!.name, 'a')
})

test('a dry run of an archive names the file that is sent, and takes no image for one by its name', async () => {
  const tar = await tarWith([{ name: 'manifest.json', content: '[]' }])
  writeFileSync(join(mesh.dir, 'site-1.tar'), tar)
  const dry = async (...args: string[]) => (await mesh.cli(['publish', 'site-1.tar', '--dry-run', ...args])).stdout
  const [service] = (JSON.parse(await dry('--json')) as PublishPlan).services
  assert.equal([service!.image, service!.supply], [null, { from: 'archive', file: 'site-1.tar', bytes: tar.length }])
  const lines = (await dry('--image', 'alice/web:3')).split('\n')
  assert.equal(lines.slice(1, 3), [
    '  service main: image alice/web:3 of an archive, 0.5 CPUs, 256 MiB',
    '    sent: site-1.tar, 2048 bytes',
  ])
  assert.match(await dry(), 'service main: the only image of an archive')
})

test('what docker save wrote is published by its file, one image of several by its name', async () => {
  const [ap] = mesh.aps
  const other = 'dropmesh-test/other:1'
  await mesh.docker.getImage(BUSYBOX).tag({ repo: 'dropmesh-test/other', tag: '1' })
  const context = await tarWith([
    { name: 'Dockerfile', content: `FROM ${BUSYBOX}\nCOPY page /www/index.html\nCMD ${SERVE}\n` },
    { name: 'page', content: 'from a file' },
  ])
  async function* sent() {
    yield context
  }
  const id = await buildImage(mesh.docker, sent(), { dockerfile: 'Dockerfile', args: {}, onBaseImage: false })
  await mesh.docker.getImage(id).tag({ repo: 'dropmesh-test/page', tag: '1' })
  const file = join(mesh.dir, 'page.tar')
  execFileSync('docker', ['save', '--output', file, 'dropmesh-test/page:1', other])
  for (const name of ['dropmesh-test/page:1', other]) await mesh.docker.getImage(name).remove()

  const which = await ap!.cli('publish', file, '--port', '8080')
  assert.is(which.status, 1)
  assert.match(which.stderr, 'has 2 images; say which with --image: it has dropmesh-test/')
  const published = await ap!.cli('publish', file, '--image', 'dropmesh-test/page:1', '--port', '8080')
  assert.is(published.status, 0, published.stderr)
  await served('page', 'from a file')
})

test('a dry run asks the node where each image is, and how big, and has it pull none', async () => {
  const [ap] = mesh.aps
  const { port } = new URL(`http://${(await ap!.status()).registry!.address}`)
  const images = { held: BUSYBOX, pushed: 'dropmesh-test/page:1', far: '127.0.0.1:9/none/such:1' }
  const dir = await mesh.chute(
    'where',
    Object.fromEntries(Object.entries(images).map(([name, image]) => [name, { image }])),
  )
  const { stdout, stderr } = await ap!.cli('publish', dir, '--dry-run', '--json')
  const { services } = JSON.parse(stdout || stderr) as PublishPlan
  const { Os, Architecture, Size } = await mesh.docker.getImage(BUSYBOX).inspect()
  const supplies = Object.fromEntries(services.map(({ name, supply }) => [name, supply]))
  const platform = `${Os}/${Architecture}`
  assert.equal(supplies.held, { from: 'engine', images: [{ platform, size: Size }] })
  assert.equal(supplies.far, { from: 'elsewhere', images: [] })
  const { pushed } = supplies
  assert.ok(pushed?.from === 'registry', 'the archive was imported above')
  assert.equal(
    pushed.images.map((one) => one.platform),
    [platform],
  )
  assert.ok(pushed.images[0]!.size! >= Size)
  assert.match(
    (await ap!.cli('publish', dir, '--dry-run')).stdout,
    new RegExp(`from the engine of this AP: ${platform}, \\d`),
  )

  const none = await mesh.chute('nowhere', { main: { image: `127.0.0.1:${port}/none:1` } })
  const refused = await ap!.cli('publish', none, '--dry-run')
  assert.is(refused.status, 1)
  assert.match(refused.stderr, 'main: there is no image none:1 in the registry of this AP')
})

test('what a node sends of a repository stays in the folder that it is unpacked into', async () => {
  const into = async (entries: Parameters<typeof tarWith>[0]) => {
    const dir = scratch('unpack')
    const home = join(dir, 'home')
    mkdirSync(home)
    async function* source() {
      yield await tarWith(entries)
    }
    return { dir, home, left: await unpack(source(), home) }
  }
  for (const name of ['../out', '/etc/out', 'a/../../out']) {
    await refusalOf(into([{ name, content: 'x' }]), 'source')
  }
  await refusalOf(into([{ name: 'a', type: 'link', linkname: '/etc/passwd' }]), 'source')
  await refusalOf(into([{ name: 'a', type: 'fifo' }]), 'source')
  const { home, left } = await into([
    { name: 'd/run.sh', content: 'x', mode: 0o4755 },
    { name: 'p/q/file', content: 'x' },
    { name: 'up', type: 'symlink', linkname: '..' },
    { name: 'abs', type: 'symlink', linkname: '/etc' },
    // By its text it stays inside, through the other one it does not.
    { name: 'p/q/top', type: 'symlink', linkname: '../..' },
    { name: 'out', type: 'symlink', linkname: 'p/q/top/..' },
    { name: 'fine', type: 'symlink', linkname: 'd/run.sh' },
    { name: 'dangling', type: 'symlink', linkname: 'nothing' },
  ])
  assert.equal(left.sort(), ['abs', 'out', 'up'])
  assert.equal(readdirSync(home).sort(), ['d', 'dangling', 'fine', 'p'])
  assert.is(readFileSync(join(home, 'fine'), 'utf8'), 'x')
  const through = await into([
    { name: 'd', type: 'symlink', linkname: '..' },
    { name: 'd/file', content: 'x' },
  ])
  assert.equal(readdirSync(through.dir), ['home'])
})

test('files that stop amid their way from the node are not taken for all', async () => {
  const data = join(mesh.dir, 'liar')
  mkdirSync(data)
  const tar = await tarWith([{ name: 'a', content: 'x'.repeat(5000) }])
  const liar = createServer((_, response) => {
    response.write('{"output":"fetching"}\n{"source":{}}\n')
    response.write(tar.subarray(0, 2000), () => response.destroy())
  })
  await new Promise<void>((resolve) => liar.listen(join(data, 'dropmesh.sock'), resolve))
  const said: string[] = []
  const home = scratch('liar')
  const failed = await unpack(
    new Client(data).source('https://example.org/x', (line) => said.push(line)),
    home,
  ).then(
    () => false,
    () => true,
  )
  assert.equal([failed, said], [true, ['fetching']])
  liar.close()
})

test.run()
