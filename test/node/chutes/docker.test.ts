// The Docker engine of an AP, against a real Docker.
import { randomBytes } from 'node:crypto'
import { readFile } from 'node:fs/promises'
import { request } from 'node:http'
import { type AddressInfo, connect, createServer, type Server } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { DockerEngine } from '../../../node/chutes/docker.js'
import { connectDocker, socketOf } from '../../../node/chutes/docker-client.js'
import { type ContainerState, EngineError, type InstancePlan } from '../../../node/chutes/engine.js'
import type { ImageSpec, ServiceSpec } from '../../../protocols/deployment.js'
import { MeshError } from '../../../protocols/error.js'
import { BUSYBOX, ensureBusybox, imageIn } from '../../support/busybox.js'

const docker = connectDocker()
const mesh = `test-${randomBytes(6).toString('hex')}`
const engine = new DockerEngine(docker, { mesh, ap: 'ap-one' })
const other = new DockerEngine(docker, { mesh, ap: 'ap-two' })
let image: ImageSpec

const test = suite('docker')

test.before(async () => {
  image = await imageIn(docker, await ensureBusybox(docker))
})

test.after(async () => {
  const filters = { label: [`dropmesh.mesh=${mesh}`] }
  const containers = await docker.listContainers({ all: true, filters })
  await Promise.allSettled(containers.map(({ Id }) => docker.getContainer(Id).remove({ force: true, v: true })))
  const networks = await docker.listNetworks({ filters })
  await Promise.allSettled(networks.map(({ Id }) => docker.getNetwork(Id).remove()))
  await Promise.allSettled(
    (await volumesWith(`dropmesh.mesh=${mesh}`)).map(({ Name }) => docker.getVolume(Name).remove()),
  )
})

// dockerode's types know no filters here.
const volumesWith = async (...label: string[]) =>
  (await (docker.listVolumes as (options: object) => ReturnType<typeof docker.listVolumes>)({ filters: { label } }))
    .Volumes

const service = (more: Partial<ServiceSpec> = {}): ServiceSpec => ({
  name: 'web',
  images: [image],
  command: ['sleep', '1000'],
  environment: {},
  ports: [],
  mounts: [],
  tmpfs: [],
  stopGrace: 2000,
  limits: { cpu: 100, memory: 32 * 1024 ** 2, pids: 20 },
  ...more,
})

/** A service that runs a line of shell. */
const shell = (line: string, more: Partial<ServiceSpec> = {}): ServiceSpec =>
  service({ command: ['sh', '-c', line], ...more })

function plan(services: ServiceSpec[], more: Partial<InstancePlan> & { volumes?: [string, boolean][] } = {}) {
  const { volumes = [], ...rest } = more
  return {
    key: randomBytes(16).toString('hex'),
    instance: 'hello.0',
    chute: 'hello',
    chuteKey: randomBytes(16).toString('hex'),
    revision: '3',
    epoch: '7',
    generation: 'g1',
    environment: {},
    spec: {
      services,
      volumes: volumes.map(([name, ephemeral]) => ({ name, ephemeral })),
      replicas: 1,
      constraints: [],
    },
    ...rest,
  } satisfies InstancePlan
}

const statesOf = async ({ key }: { key: string }, of = engine): Promise<ContainerState[]> =>
  (await of.containers()).filter((container) => container.key === key)

async function stateOf(instance: { key: string }, of = engine): Promise<ContainerState> {
  const states = await statesOf(instance, of)
  assert.is(states.length, 1)
  return states[0]!
}

async function until<T>(what: string, probe: () => Promise<T | undefined | false>, seconds = 20): Promise<T> {
  const end = Date.now() + seconds * 1000
  for (;;) {
    const found = await probe()
    if (found !== undefined && found !== false) return found
    if (Date.now() > end) throw new Error(`not within ${seconds} s: ${what}`)
    await sleep(100)
  }
}

const ended = (instance: { key: string }): Promise<ContainerState> =>
  until('the container has ended', async () => {
    const state = await stateOf(instance)
    return !state.running && state.startedAt !== null && state
  })

/** What a container printed: without a terminal, frames of a header of 8 bytes and the text. */
async function outputOf({ id }: { id: string }): Promise<string> {
  const bytes = (await docker.getContainer(id).logs({ stdout: true, stderr: true })) as unknown as Buffer
  let text = ''
  for (let at = 0; at < bytes.length; at += 8 + bytes.readUInt32BE(at + 4)) {
    text += bytes.subarray(at + 8, at + 8 + bytes.readUInt32BE(at + 4)).toString()
  }
  return text
}

/** Runs one service to its end and returns what it printed. */
async function run(line: string, more: Partial<ServiceSpec> = {}, rest: Parameters<typeof plan>[1] = {}) {
  const instance = plan([shell(line, more)], rest)
  await engine.create(instance)
  await engine.start(instance.key)
  const state = await ended(instance)
  return { state, output: await outputOf(state), instance }
}

const get = (port: number) =>
  new Promise<string | undefined>((resolve) => {
    request({ port, path: '/index.html' }, (answer) => answer.on('data', (chunk) => resolve(String(chunk))))
      .on('close', () => resolve(undefined))
      .on('error', () => resolve(undefined))
      .end()
  })

async function rejection(promise: Promise<unknown>): Promise<EngineError> {
  const error = await promise.then(
    () => undefined,
    (thrown) => thrown,
  )
  assert.instance(error, EngineError, `expected an EngineError, got ${error}`)
  return error as EngineError
}

test('info says what the engine is and has', async () => {
  const info = await engine.info()
  assert.match(info.version, /^\d+\.\d+/)
  assert.is(info.platform, image.platform)
  assert.ok(info.cpu >= 1000 && info.cpu % 1000 === 0)
  assert.ok(info.memory > 100 * 1024 ** 2)
})

test('create makes everything with its labels and starts nothing', async () => {
  const instance = plan([service({ mounts: [{ volume: 'data', path: '/data', readOnly: false }] })], {
    volumes: [['data', false]],
  })
  await engine.create(instance)
  const state = await stateOf(instance)
  assert.equal(
    { ...state, id: '' },
    {
      id: '',
      key: instance.key,
      instance: 'hello.0',
      chute: 'hello',
      chuteKey: instance.chuteKey,
      service: 'web',
      generation: 'g1',
      epoch: '7',
      revision: '3',
      running: false,
      health: 'none',
      exitCode: null,
      oomKilled: false,
      startedAt: null,
      error: '',
      ports: [],
    },
  )
  const filters = { label: [`dropmesh.mesh=${mesh}`, `dropmesh.chute-key=${instance.chuteKey}`] }
  const [network] = await docker.listNetworks({ filters })
  const [volume] = await volumesWith(...filters.label)
  for (const labels of [network!.Labels!, volume!.Labels]) {
    for (const label of ['mesh', 'ap', 'chute', 'instance', 'service', 'revision', 'epoch']) {
      assert.ok(`dropmesh.${label}` in labels, label)
    }
  }
})

test('create again changes nothing, and makes only what is missing', async () => {
  const instance = plan([service(), service({ name: 'db' })])
  await engine.create(instance)
  const before = await statesOf(instance)
  await engine.create(instance)
  assert.equal(await statesOf(instance), before)

  const [lost, kept] = before
  await docker.getContainer(lost!.id).remove()
  await engine.create(instance)
  const after = await statesOf(instance)
  assert.equal(after.map((state) => state.service).sort(), ['db', 'web'])
  assert.ok(after.some((state) => state.id === kept!.id))
  assert.not.ok(after.some((state) => state.id === lost!.id))
})

test('create with another generation replaces the containers', async () => {
  const instance = plan([service()])
  await engine.create(instance)
  await engine.start(instance.key)
  const before = await stateOf(instance)
  await engine.create({ ...instance, generation: 'g2', revision: '4' })
  const after = await stateOf(instance)
  assert.is.not(after.id, before.id)
  assert.is(after.generation, 'g2')
  assert.is(after.revision, '4')
  await engine.start(instance.key)
  assert.ok((await stateOf(instance)).running)
})

test('start starts what does not run, and is fine with what does', async () => {
  const instance = plan([service(), shell('exit 0', { name: 'once' })])
  await engine.create(instance)
  await engine.start(instance.key)
  await engine.start(instance.key)
  const web = (await statesOf(instance)).find((state) => state.service === 'web')!
  assert.ok(web.running)
  assert.is(web.exitCode, null)
  assert.ok(Math.abs(Date.now() - Date.parse(web.startedAt!)) < 60_000)
})

test('a container that ended says how', async () => {
  const failed = await run('exit 3')
  assert.is(failed.state.exitCode, 3)
  assert.is(failed.state.oomKilled, false)
  const killed = await run('tail /dev/zero')
  assert.is(killed.state.oomKilled, true)
  assert.is(killed.state.exitCode, 137)
})

test('a service gets its environment, and that of the plan wins', async () => {
  const { output } = await run(
    'echo $A $B; id -u; pwd',
    { environment: { A: 'one', B: 'two' }, user: 'app', workingDir: '/data' },
    { environment: { B: 'plan' } },
  )
  assert.is(output, 'one plan\n1000\n/data\n')
})

test('a container is hardened', async () => {
  const { output, state } = await run(
    [
      'grep -E "^(CapEff|CapBnd|NoNewPrivs|Seccomp):" /proc/self/status',
      'touch /x && echo wrote to / $((6 * 7))',
      'touch /tmp/x && echo wrote to /tmp',
      'grep " /tmp " /proc/mounts',
      'dd if=/dev/zero of=/dev/null bs=1 count=1 2>/dev/null',
      'ls /sys/class/net',
      'tr "\\0" " " < /proc/1/cmdline',
    ].join('; '),
  )
  assert.match(output, /CapEff:\s0000000000000000\n/)
  assert.match(output, /CapBnd:\s0000000000000000\n/)
  assert.match(output, /NoNewPrivs:\s1\n/)
  assert.match(output, /Seccomp:\s2\n/)
  assert.match(output, /Read-only file system/)
  assert.not.match(output, /wrote to \/ 42/)
  assert.match(output, /wrote to \/tmp/)
  assert.match(output, /tmpfs \/tmp tmpfs rw,nosuid,nodev,relatime,size=65536k/)
  assert.match(output, /docker-init/)

  const { HostConfig, Config } = await docker.getContainer(state.id).inspect()
  assert.is(HostConfig.Memory, 32 * 1024 ** 2)
  assert.is(HostConfig.MemorySwap, 32 * 1024 ** 2)
  assert.is(HostConfig.NanoCpus, 100_000_000)
  assert.is(HostConfig.PidsLimit, 20)
  assert.is(HostConfig.Privileged, false)
  assert.is(HostConfig.RestartPolicy?.Name, 'no')
  assert.equal(HostConfig.LogConfig, { Type: 'json-file', Config: { 'max-file': '3', 'max-size': '10000000' } })
  assert.is(HostConfig.PidMode, '')
  assert.is(HostConfig.UTSMode, '')
  assert.is(HostConfig.IpcMode, 'private')
  assert.is((Config as { StopTimeout?: number }).StopTimeout, 2)
})

test('a service cannot have more processes or /tmp than its limits', async () => {
  const forked = await run('for i in $(seq 1 40); do sleep 5 & done; echo all')
  assert.match(forked.output, /can't fork/)
  const written = await run('dd if=/dev/zero of=/tmp/x bs=1M count=100 2>&1; ls -l /tmp/x', {
    limits: { cpu: 1000, memory: 256 * 1024 ** 2, pids: 20 },
  })
  assert.match(written.output, /No space left/)
  assert.match(written.output, / 67108864 /)
})

test('a tmpfs of the manifest has its size, also on /tmp', async () => {
  const { output } = await run('grep tmpfs /proc/mounts', {
    tmpfs: [
      { path: '/tmp/', size: 1024 ** 2 },
      { path: '/run', size: 2 * 1024 ** 2 },
    ],
  })
  assert.match(output, / \/tmp tmpfs .*size=1024k/)
  assert.match(output, / \/run tmpfs .*size=2048k/)
})

test('a volume can take the place of /tmp', async () => {
  const { output } = await run(
    'grep -c "tmpfs /tmp " /proc/mounts; touch /tmp/x && echo wrote',
    { mounts: [{ volume: 'scratch', path: '/tmp', readOnly: false }] },
    { volumes: [['scratch', true]] },
  )
  assert.is(output, '0\nwrote\n')
})

test('services of one instance reach each other by name', async () => {
  const instance = plan([
    shell('echo hello > /tmp/index.html; httpd -f -p 8000 -h /tmp', { name: 'web' }),
    shell('until timeout 2 wget -q -O - http://web:8000/; do sleep 0.2; done; sleep 1000', { name: 'client' }),
  ])
  await engine.create(instance)
  await engine.start(instance.key)
  const client = (await statesOf(instance)).find((state) => state.service === 'client')!
  await until('the client has its answer', async () => (await outputOf(client)).includes('hello'))
})

test('published ports are reachable, and told while the container runs', async () => {
  const instance = plan([
    shell('echo hello > /tmp/index.html; httpd -f -p 8000 -h /tmp', {
      ports: [
        { container: 8000, protocol: 'tcp' },
        { container: 8000, host: 24017, protocol: 'tcp' },
        { container: 53, protocol: 'udp' },
      ],
    }),
  ])
  await engine.create(instance)
  await engine.start(instance.key)
  const { ports } = await stateOf(instance)
  const tcp = ports
    .filter(({ protocol, container }) => protocol === 'tcp' && container === 8000)
    .map(({ host }) => host)
  assert.is(ports.length, 3)
  assert.ok(tcp.includes(24017))
  for (const port of tcp) {
    const text = await until('httpd answers', () => get(port))
    assert.is(text, 'hello\n')
  }
  await docker.getContainer((await stateOf(instance)).id).kill()
  assert.equal((await ended(instance)).ports, [])
})

test('a port that the engine picked is told as IPv4 knows it, also where IPv6 got another one', async () => {
  // A port of IPv6 alone sets the engine's two counters apart.
  const apart = await docker.createContainer({
    Image: BUSYBOX,
    Cmd: ['sleep', '1000'],
    Labels: { 'dropmesh.mesh': mesh },
    ExposedPorts: { '8000/tcp': {} },
    HostConfig: { PortBindings: { '8000/tcp': [{ HostIp: '::', HostPort: '' }] } },
  })
  await apart.start()
  const instance = plan([service({ ports: [{ container: 8000, protocol: 'tcp' }] })])
  await engine.create(instance)
  await engine.start(instance.key)
  const { id, ports } = await stateOf(instance)
  const at = (await docker.getContainer(id).inspect()).NetworkSettings.Ports['8000/tcp']!
  const ipv4 = at.find(({ HostIp }) => HostIp === '0.0.0.0')!
  assert.equal(ports, [{ container: 8000, host: Number(ipv4.HostPort), protocol: 'tcp' }])
})

test('a port that a container has is named with that container, and can be had once it is free', async () => {
  const ports = [{ container: 80, host: 24018, protocol: 'tcp' as const }]
  const first = plan([service({ ports })], { instance: 'first.0' })
  const second = plan([service({ ports })], { instance: 'second.0' })
  await engine.create(first)
  await engine.start(first.key)
  await other.create(second)
  const error = await rejection(other.start(second.key))
  assert.is(error.code, 'port-taken')
  assert.match(error.message, /second\.0 .*port 24018\/tcp is taken by container dropmesh-first\.0-web/)

  await engine.remove(first.key, 0)
  await other.start(second.key)
  assert.ok((await stateOf(second, other)).running)
})

test('a port that a process has is named with that process', async () => {
  const server = createServer()
  await new Promise<void>((resolve) => server.listen(24019, '0.0.0.0', resolve))
  try {
    const instance = plan([service({ ports: [{ container: 80, host: 24019, protocol: 'tcp' }] })])
    await engine.create(instance)
    const error = await rejection(engine.start(instance.key))
    assert.is(error.code, 'port-taken')
    assert.match(error.message, new RegExp(`port 24019/tcp is taken by .*\\(pid ${process.pid}\\)`))
  } finally {
    server.close()
  }
})

test('health follows the health check', async () => {
  const check = { interval: 300, timeout: 1000, startPeriod: 0, retries: 1 }
  const instance = plan([
    service({ name: 'none' }),
    service({ name: 'good', healthcheck: { test: ['CMD', 'true'], ...check } }),
    service({ name: 'bad', healthcheck: { test: ['CMD-SHELL', 'exit 1'], ...check } }),
  ])
  await engine.create(instance)
  await engine.start(instance.key)
  const health = async () =>
    Object.fromEntries((await statesOf(instance)).map((state) => [state.service, state.health]))
  assert.is((await health()).none, 'none')
  await until('both checks ran', async () => {
    const { good, bad } = await health()
    return good === 'healthy' && bad === 'unhealthy'
  })
})

test('remove gives each service its grace, then kills it', async () => {
  const instance = plan(
    [
      shell('trap "echo saved > /data/x; exit 0" TERM; while true; do sleep 0.1; done', {
        user: 'app',
        mounts: [{ volume: 'data', path: '/data', readOnly: false }],
        stopGrace: 10_000,
      }),
      shell('trap "" TERM; while true; do sleep 0.1; done', { name: 'deaf', stopGrace: 1000 }),
    ],
    { volumes: [['data', false]] },
  )
  await engine.create(instance)
  await engine.start(instance.key)
  await sleep(500)
  const begin = Date.now()
  await engine.remove(instance.key)
  assert.ok(Date.now() - begin < 8000)
  assert.equal(await statesOf(instance), [])
  assert.equal(await docker.listNetworks({ filters: { label: [`dropmesh.key=${instance.key}`] } }), [])

  // The volume stayed, and belongs to the chute, not to the instance.
  const next = await run(
    'cat /data/x',
    { mounts: [{ volume: 'data', path: '/data', readOnly: true }] },
    { chuteKey: instance.chuteKey, volumes: [['data', false]] },
  )
  assert.is(next.output, 'saved\n')
})

test('remove takes a grace of its own in place of the services', async () => {
  const instance = plan([shell('trap "" TERM; while true; do sleep 0.1; done', { stopGrace: 60_000 })])
  await engine.create(instance)
  await engine.start(instance.key)
  const begin = Date.now()
  await engine.remove(instance.key, 500)
  assert.ok(Date.now() - begin < 10_000)
})

test('remove is fine with what was never made, is half made, or is paused', async () => {
  await engine.remove('ffff')
  const instance = plan([service()])
  await engine.create(instance)
  await docker.getContainer((await stateOf(instance)).id).remove()
  assert.ok((await engine.leftovers()).includes(instance.key))
  await engine.remove(instance.key)
  assert.not.ok((await engine.leftovers()).includes(instance.key))

  const paused = plan([service()])
  await engine.create(paused)
  await engine.start(paused.key)
  await docker.getContainer((await stateOf(paused)).id).pause()
  await engine.remove(paused.key, 1000)
  assert.equal(await statesOf(paused), [])
})

test('start survives the loss of the network, as by "docker network prune"', async () => {
  const instance = plan([shell('sleep 1')])
  await engine.create(instance)
  await engine.start(instance.key)
  await ended(instance)
  const [network] = await docker.listNetworks({ filters: { label: [`dropmesh.key=${instance.key}`] } })
  await docker.getNetwork(network!.Id).remove()
  await engine.start(instance.key)
  assert.ok((await stateOf(instance)).running)
})

// Where the bridges are another machine's, or only root may change them, it stays as Docker has it.
const isOurs = socketOf(docker) !== undefined && process.getuid?.() === 0 && process.platform === 'linux'
const testOurs = isOurs ? test : test.skip
testOurs(
  'a container that was asked for before it was there is looked for again after 50 ms, and for 3 s',
  async () => {
    const instance = plan([service()])
    await engine.create(instance)
    const [network] = await docker.listNetworks({ filters: { label: [`dropmesh.key=${instance.key}`] } })
    const folder = `/proc/sys/net/ipv4/neigh/${network!.Options!['com.docker.network.bridge.name']}`
    const [every, times] = await Promise.all(
      ['retrans_time_ms', 'mcast_solicit'].map(async (name) => Number(await readFile(join(folder, name), 'utf8'))),
    )
    // Kernels count in ticks, of up to 10 ms.
    assert.ok(every! >= 50 && every! <= 60 && times === 60, `every ${every} ms, ${times} times`)
  },
)

test('a user other than root can write to a volume where the image lets it', async () => {
  const { output } = await run(
    'touch /data/x && ls -n /data',
    { user: '1000', mounts: [{ volume: 'data', path: '/data', readOnly: false }] },
    { volumes: [['data', false]] },
  )
  assert.match(output, / 1000 .* x\n/)
})

test('a volume that is mounted read-only cannot be written', async () => {
  const { output } = await run(
    'touch /data/x',
    { mounts: [{ volume: 'data', path: '/data', readOnly: true }] },
    { volumes: [['data', false]] },
  )
  assert.match(output, /Read-only file system/)
})

test('volumes tells the lasting ones, and removeVolumes can spare them', async () => {
  const instance = plan([service()], {
    volumes: [
      ['data', false],
      ['cache', true],
    ],
  })
  const { chuteKey, key } = instance
  await engine.create(instance)
  assert.equal(await engine.volumes(chuteKey), ['data'])
  assert.equal(await other.volumes(chuteKey), [])
  await engine.removeVolumes(chuteKey, true)
  assert.equal(await engine.volumes(chuteKey), ['data'])
  const count = async () => (await volumesWith(`dropmesh.chute-key=${chuteKey}`)).length
  assert.is(await count(), 1)
  await engine.remove(key)
  await engine.removeVolumes(chuteKey)
  assert.is(await count(), 0)
})

test('a volume in use is not removed', async () => {
  const instance = plan([service({ mounts: [{ volume: 'data', path: '/data', readOnly: false }] })], {
    volumes: [['data', false]],
  })
  await engine.create(instance)
  assert.is((await rejection(engine.removeVolumes(instance.chuteKey))).code, 'refused')
})

test('an ephemeral volume does not become a lasting one in silence', async () => {
  const instance = plan([service()], { volumes: [['data', true]] })
  await engine.create(instance)
  await engine.remove(instance.key)
  const lasting = plan([service()], { chuteKey: instance.chuteKey, volumes: [['data', false]] })
  const error = await rejection(engine.create(lasting))
  assert.is(error.code, 'refused')
  assert.match(error.message, /volume "data" of hello was made as an ephemeral one/)
})

test('two APs on one engine neither see nor touch what the other has, also of one instance', async () => {
  const instance = plan([service()], { volumes: [['data', false]] })
  await engine.create(instance)
  await other.create(instance)
  await engine.start(instance.key)
  const mine = await stateOf(instance)
  const theirs = await stateOf(instance, other)
  assert.is.not(mine.id, theirs.id)
  assert.is(theirs.running, false)
  await other.remove(instance.key)
  await other.removeVolumes(instance.chuteKey)
  assert.equal(await stateOf(instance), mine)
  assert.equal(await engine.volumes(instance.chuteKey), ['data'])
})

test('what lacks a label of this mesh or AP is not touched', async () => {
  const instance = plan([service()])
  const stranger = await docker.createContainer({
    Image: BUSYBOX,
    Labels: { 'dropmesh.mesh': mesh, 'dropmesh.ap': 'ap-three', 'dropmesh.key': instance.key },
  })
  await engine.create(instance)
  await engine.remove(instance.key)
  assert.is((await stranger.inspect()).Id, stranger.id)
  await stranger.remove()
})

test('an image that is not there is no-image', async () => {
  const absent = { ...image, config: new Uint8Array(randomBytes(32)) }
  const error = await rejection(engine.create(plan([service({ images: [absent] })])))
  assert.is(error.code, 'no-image')
  assert.match(error.message, new RegExp(Buffer.from(absent.config).toString('hex').slice(0, 12)))
})

test('a container that cannot start is refused, and says why', async () => {
  const instance = plan([service({ user: 'no-such-user' })])
  await engine.create(instance)
  const error = await rejection(engine.start(instance.key))
  assert.is(error.code, 'refused')
  assert.match(error.message, /hello\.0 \(service web\).*no-such-user/s)
  const state = await stateOf(instance)
  assert.is(state.running, false)
  assert.match(state.error, /no-such-user/)
})

test('start of an instance without containers is refused', async () => {
  assert.is((await rejection(engine.start('ffff'))).code, 'refused')
})

test('changes reports starts, deaths and health of this AP alone, until it is told to end', async () => {
  const stop = new AbortController()
  let mine = 0
  let theirs = 0
  const watching = engine.changes(() => mine++, stop.signal)
  const watchingOther = other.changes(() => theirs++, stop.signal)
  await until('both watch', async () => mine === 1 && theirs === 1)

  const instance = plan([
    service({ healthcheck: { test: ['CMD', 'true'], interval: 300, timeout: 1000, startPeriod: 0, retries: 1 } }),
  ])
  await engine.create(instance)
  assert.is(mine, 1)
  await engine.start(instance.key)
  await until('it starts', async () => mine >= 2)
  await until('it is healthy', async () => mine >= 3)
  await engine.remove(instance.key, 0)
  await until('it dies and is gone', async () => mine >= 5)
  assert.is(theirs, 1)

  stop.abort()
  await Promise.all([watching, watchingOther])
})

test('no engine is no-engine: no socket, nothing behind it, or no answer in time', async () => {
  const owner = { mesh, ap: 'ap-one' }
  const absent = new DockerEngine(connectDocker('unix:///nonexistent/docker.sock'), owner)
  assert.is((await rejection(absent.info())).code, 'no-engine')
  assert.is((await rejection(absent.changes(() => {}, new AbortController().signal))).code, 'no-engine')
  const refusing = new DockerEngine(connectDocker('tcp://127.0.0.1:9'), owner)
  assert.is((await rejection(refusing.containers())).code, 'no-engine')

  // As a Docker that hangs: it takes the connection and says nothing, or breaks off amid an answer.
  const path = join(tmpdir(), `dropmesh-test-${randomBytes(6).toString('hex')}.sock`)
  const begun = 'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n[{'
  let servant: (socket: import('node:net').Socket) => void = () => {}
  const server: Server = createServer((socket) => {
    socket.on('error', () => {})
    socket.on('data', () => servant(socket))
  })
  await new Promise<void>((resolve) => server.listen(path, resolve))
  try {
    const hung = new DockerEngine(connectDocker(`unix://${path}`), owner, 300)
    for (const answer of [
      () => {},
      (s: import('node:net').Socket) => s.write(begun),
      (s: import('node:net').Socket) => s.end(begun),
    ]) {
      servant = answer
      for (const ask of [
        () => hung.info(),
        () => hung.containers(),
        () => hung.create(plan([service()])),
        () => hung.start('aa'),
        () => hung.remove('aa'),
        () => hung.volumes('aa'),
      ]) {
        const begin = Date.now()
        assert.is((await rejection(ask())).code, 'no-engine')
        assert.ok(Date.now() - begin < 3000)
      }
    }
    servant = () => {}
    assert.is((await rejection(hung.changes(() => {}, new AbortController().signal))).code, 'no-engine')
  } finally {
    server.close()
  }
})

test('changes ends when the engine does', async () => {
  const path = join(tmpdir(), `dropmesh-test-${randomBytes(6).toString('hex')}.sock`)
  const server = createServer((socket) => {
    socket.on('error', () => {})
    socket.once('data', () => {
      socket.write('HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n')
      setTimeout(() => socket.destroy(), 200)
    })
  })
  await new Promise<void>((resolve) => server.listen(path, resolve))
  try {
    const dying = new DockerEngine(connectDocker(`unix://${path}`), { mesh, ap: 'ap-one' })
    await dying.changes(() => {}, new AbortController().signal)
  } finally {
    server.close()
  }
})

test('the address of an engine is checked', () => {
  for (const bad of ['docker', 'ssh://host', 'unix://relative', 'tcp://', 'tcp:/x', 'http://[']) {
    assert.throws(
      () => connectDocker(bad),
      (error: unknown) => error instanceof MeshError && error.code === 'docker-host' && error.message.includes(bad),
      bad,
    )
  }
})

test('an address that is given wins over DOCKER_HOST', async () => {
  const before = process.env.DOCKER_HOST
  process.env.DOCKER_HOST = 'tcp://127.0.0.1:9'
  try {
    const socketPath = ((docker.modem as { socketPath?: unknown }).socketPath as string) ?? '/var/run/docker.sock'
    await new DockerEngine(connectDocker(`unix://${socketPath}`), { mesh, ap: 'x' }).info()
    assert.is((await rejection(new DockerEngine(connectDocker(), { mesh, ap: 'x' }).info())).code, 'no-engine')
  } finally {
    if (before === undefined) delete process.env.DOCKER_HOST
    else process.env.DOCKER_HOST = before
  }
})

test('an engine behind a network is none whose containers this machine could stop by itself', async () => {
  const { local } = await engine.info()
  assert.is(local, true)
  const server = createServer((client) => {
    const socket = connect(socketOf(docker)!)
    client.pipe(socket).pipe(client)
    for (const side of [client, socket]) side.on('error', () => {})
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const { port } = server.address() as AddressInfo
  const far = new DockerEngine(connectDocker(`tcp://127.0.0.1:${port}`), { mesh, ap: 'ap-one' })
  assert.is((await far.info()).local, false)
  server.close()
})

test.run()
