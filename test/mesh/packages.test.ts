// Packages as a person meets them: real nodes with a registry each, the real command line, docker. What travels between
// engines is in test/hosts/image.test.ts.
import { randomBytes } from 'node:crypto'
import { mkdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { work } from '../../node/chutes/docker-client.js'
import { BUSYBOX, ensureBusybox } from '../support/busybox.js'
import { eventually, type TestAp, TestMesh } from '../support/mesh.js'

const mesh = new TestMesh()
let one: TestAp
let two: TestAp
const made: string[] = []

test.before(async () => {
  await ensureBusybox(mesh.docker)
  ;[one, two] = (await mesh.start(2)) as [TestAp, TestAp]
})
test.after(async () => {
  await mesh.close()
  for (const name of made)
    await mesh.docker
      .getImage(name)
      .remove({ force: true })
      .catch(() => {})
})

interface Inspected {
  package: { digest: string; size: number; holders: { name: string }[] }
}
const inspect = (ap: TestAp, chute: string) => ap.client.get<Inspected>('/v1/inspect', { of: chute })

test('a published chute has a package, of which inspect tells who has it, and status what packages take', async () => {
  const published = await mesh.publish(one, 'plain')
  const { package: found } = await inspect(two, 'plain')
  assert.is(found.digest, published.package)
  await eventually('the publisher to say that it has it', async () => {
    const { holders } = (await inspect(two, 'plain')).package
    return holders.some(({ name }) => name === 'ap1')
  })
  const { registry } = await one.status()
  assert.ok(registry.bytes > 100_000 && registry.blobs >= 4, JSON.stringify(registry))
  assert.match(
    (await one.cli('status')).stdout,
    /^Packages +\d+\.\d MB of 8\d{3}\.\d MB in \d+ blobs, registry at 127/m,
  )
})

test('the same images in another chute make the same blobs, and the same package', async () => {
  const before = (await one.status()).registry
  const published = await mesh.publish(one, 'again')
  assert.is(published.package, (await inspect(one, 'plain')).package.digest)
  assert.is((await one.status()).registry.blobs, before.blobs)
})

test('an image that docker pushed to the registry of the AP is published by its name there', async () => {
  const { registry } = await one.status()
  const tag = randomBytes(4).toString('hex')
  const name = `${registry.address}/alice/pushed`
  await mesh.docker.getImage(BUSYBOX).tag({ repo: name, tag })
  made.push(`${name}:${tag}`)
  const push = (_: unknown, abortSignal: AbortSignal) =>
    mesh.docker.getImage(name).push({ tag, authconfig: { username: '', password: '' }, abortSignal })
  await work('push', null, push)
  await mesh.docker.getImage(`${name}:${tag}`).remove()
  const { placed } = await mesh.publish(one, 'pushed', { image: `alice/pushed:${tag}` })
  assert.is(placed.length, 1)
  await mesh.running('pushed')
  const { stderr } = await one.cli('publish', await mesh.chute('missing', { main: { image: `${name}:none` } }))
  assert.match(stderr, /main: there is no image alice\/pushed:none in the registry of this AP/)
})

async function sources(name: string, text: string): Promise<string> {
  const dir = join(mesh.dir, name)
  await mkdir(dir, { recursive: true })
  await writeFile(join(dir, 'Dockerfile'), `FROM ${BUSYBOX}\nARG WORD\nRUN echo "${text} $WORD" >/word\n`)
  const compose = {
    services: {
      main: {
        ...{ build: { context: '.', args: { WORD: 'there' } }, command: ['sleep', '1000000'] },
        deploy: { resources: { limits: { cpus: '0.2', memory: '64m' } } },
      },
    },
    'x-dropmesh': { build: 'on-ap' },
  }
  await writeFile(join(dir, 'compose.yaml'), JSON.stringify(compose))
  return dir
}

test('sources are sent where the manifest says so, built on the AP that runs them, and only by who has the right', async () => {
  const dir = await sources('built', `hello ${randomBytes(4).toString('hex')}`)
  assert.is((await mesh.cli(['keys', 'new', 'bob'])).status, 0)
  assert.is((await one.cli('grant', 'bob')).status, 0)
  const refused = await one.cli('publish', dir, '--key', 'bob')
  assert.is(refused.status, 1)
  assert.match(
    refused.stderr,
    /compose\.yaml:1:\d+: x-dropmesh\.build: needs the right build:on-ap, which your key does not hold/,
  )
  assert.match((await one.cli('publish', dir, '--dry-run')).stdout, /service main: sources of \., which each AP builds/)
  assert.is((await one.cli('grant', 'bob', '--right', 'build:on-ap')).status, 0)

  const { status, stderr } = await one.cli('publish', dir, '--key', 'bob')
  assert.is(status, 0, stderr)
  assert.match(stderr, /sending the sources of main, which each AP builds/)
  const [container] = await mesh.running('built')
  const exec = await mesh.docker.getContainer(container!.id).exec({ Cmd: ['cat', '/word'], AttachStdout: true })
  const output = await exec.start({})
  let text = ''
  for await (const chunk of output) text += String(chunk)
  assert.match(text, /hello [0-9a-f]{8} there/)
  made.push((await mesh.docker.getContainer(container!.id).inspect()).Config.Image)
})

test('a build that fails on the AP is told as the reason why the chute does not run, with what the step said', async () => {
  const dir = await sources('failing', 'x')
  await writeFile(join(dir, 'Dockerfile'), `FROM ${BUSYBOX}\nRUN echo ${randomBytes(4).toString('hex')} && exit 7\n`)
  const { status, stderr } = await one.cli('publish', dir, '--key', 'bob', '--wait', '8s')
  assert.is(status, 1)
  assert.match(stderr, /failing is published but does not run: .*returned a non-zero code: 7/)
  await one.json('rm', 'failing', '--key', 'bob')
})

test('a node that is started again has its packages, and hands them on', async () => {
  const before = await one.status()
  await one.stop('SIGKILL')
  await one.start()
  await eventually('the packages', async () => (await one.status()).registry.blobs === before.registry.blobs)
  await eventually('it to say so', async () => {
    const { holders } = (await inspect(two, 'plain')).package
    return holders.some(({ name }) => name === 'ap1')
  })
  await mesh.settled()
})

test('the settings of packages are refused where they are wrong, by their names', async () => {
  for (const [flag, value, why] of [
    ['--package-rate', '20', /--package-rate "20": write it as 20mbit/],
    ['--packages-max', 'lots', /--packages-max "lots": write it as 8g/],
    ['--registry-port', '99999', /--registry-port "99999": write a port/],
  ] as const) {
    const { status, stderr } = await mesh.cli(['up', '--data', join(mesh.dir, 'none'), flag, value])
    assert.is(status, 1)
    assert.match(stderr, why)
  }
})

test.run()
