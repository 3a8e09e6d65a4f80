// The base image of chutes in JavaScript, made and run by a real Docker.
import { randomBytes } from 'node:crypto'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { DockerEngine } from '../../../node/chutes/docker.js'
import { connectDocker } from '../../../node/chutes/docker-client.js'
import type { InstancePlan } from '../../../node/chutes/engine.js'
import { BASE_IMAGE, baseImage, ensureBaseImage, usesBaseImage } from '../../../node/packages/base-image.js'
import { hex } from '../../../protocols/bytes.js'
import { imageIn } from '../../support/busybox.js'

const docker = connectDocker()
const mesh = `test-${randomBytes(6).toString('hex')}`
const engine = new DockerEngine(docker, { mesh, ap: 'ap-one' })
const key = randomBytes(8).toString('hex')

const test = suite('base-image')

test.after(async () => {
  await engine.remove(key, 0)
  await engine.removeVolumes(key)
})

test('the same Node.js makes the same image, and the engine has that one', async () => {
  const [one, two] = [await baseImage(), await baseImage()]
  assert.is(hex(one.config), hex(two.config))
  assert.is(one.size, two.size)
  const id = await ensureBaseImage(docker)
  assert.is((await docker.getImage(BASE_IMAGE).inspect()).Id, id)
  assert.is(hex((await imageIn(docker, BASE_IMAGE)).config), hex(one.config))
})

test('an image that is there is not made again, also when it lost its name', async () => {
  const id = await ensureBaseImage(docker)
  const lines: string[] = []
  assert.is(await ensureBaseImage(docker, (line) => lines.push(line)), id)
  await docker.getImage(BASE_IMAGE).remove({ noprune: true })
  assert.is(await ensureBaseImage(docker, (line) => lines.push(line)), id)
  assert.equal(lines, [])
})

test('it is for the platform of this engine', async () => {
  await ensureBaseImage(docker)
  assert.is((await imageIn(docker, BASE_IMAGE)).platform, (await engine.info()).platform)
})

test('it runs in the hardened container of a chute, and can write to /tmp and to a volume on /data', async () => {
  await ensureBaseImage(docker)
  const image = await imageIn(docker, BASE_IMAGE)
  const program = `
    const fs = require('fs')
    fs.writeFileSync('/tmp/x', 'x')
    fs.writeFileSync('/data/x', 'x')
    try { fs.writeFileSync('/home/node/x', 'x') } catch (error) { console.log(error.code) }
    const { uid, username, homedir } = require('os').userInfo()
    console.log(process.version, uid, username, homedir)
    require('dns').lookup('web', (error, address) => console.log(error ?? /^\\d+[.]/.test(address)))
  `
  const plan: InstancePlan = {
    key,
    instance: 'hello.0',
    chute: 'hello',
    chuteKey: key,
    revision: '1',
    epoch: '1',
    generation: '1',
    environment: {},
    spec: {
      services: [
        {
          name: 'web',
          images: [image],
          command: ['node', '-e', program],
          environment: {},
          ports: [],
          mounts: [{ volume: 'data', path: '/data', readOnly: false }],
          tmpfs: [],
          stopGrace: 1000,
          limits: { cpu: 1000, memory: 128 * 1024 ** 2, pids: 32 },
        },
      ],
      volumes: [{ name: 'data', ephemeral: false }],
      replicas: 1,
      constraints: [],
    },
  }
  await engine.create(plan)
  const { id } = (await engine.containers())[0]!
  const container = docker.getContainer(id)
  await engine.start(key)
  await container.wait()
  const output = String(await container.logs({ stdout: true, stderr: true }))
  assert.match(output, `${process.version} 1000 node /home/node`)
  assert.match(output, 'EROFS')
  assert.match(output, /true\n/)
})

test('a Dockerfile says whether it builds on the base image', () => {
  for (const yes of [
    'FROM dropmesh/node\n',
    '# first\n\nfrom dropmesh/node:latest AS build',
    'FROM busybox\nFROM --platform=linux/amd64 dropmesh/node as run\nCOPY . .',
  ]) {
    assert.ok(usesBaseImage(yes), yes)
  }
  for (const no of [
    'FROM node:20',
    'FROM dropmesh/node-red',
    '# FROM dropmesh/node',
    'COPY --from=dropmesh/node a b',
  ]) {
    assert.not.ok(usesBaseImage(no), no)
  }
})

test.run()
