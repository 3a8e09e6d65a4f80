// What a manifest says of the life of its services, by a real reconciler on a real Docker: who waits for whom, what is done
// when it has ended, and what a container has of what else it says.
import { randomBytes } from 'node:crypto'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { DockerEngine } from '../../../node/chutes/docker.js'
import { connectDocker } from '../../../node/chutes/docker-client.js'
import type { ContainerState, InstancePlan } from '../../../node/chutes/engine.js'
import { Files } from '../../../node/chutes/files.js'
import { isDone, orderOf } from '../../../node/chutes/order.js'
import { Reconciler } from '../../../node/chutes/reconciler.js'
import { hex, unhex } from '../../../protocols/bytes.js'
import type { ImageSpec } from '../../../protocols/deployment.js'
import { parseManifest, toSpec } from '../../../protocols/manifest.js'
import { BUSYBOX, ensureBusybox, imageIn } from '../../support/busybox.js'
import { until } from '../../support/until.js'

const docker = connectDocker()
const ap = `ap-${randomBytes(6).toString('hex')}`
const engine = new DockerEngine(docker, { mesh: 'test-order', ap })
const files = new Files({ self: ap, secretOf: () => assert.unreachable('there is no secret') as never })
const events: { kind: string; reason?: unknown }[] = []
const reconciler = new Reconciler({
  ...{ engine, files },
  fetch: async () => {},
  has: async () => true,
  beforeStart: async () => true,
  onSeen: () => {},
  onStopped: () => {},
  now: () => Date.now(),
  onChange: () => {},
  onEvent: (kind, fields) => events.push({ kind, ...fields }),
})
let image: ImageSpec

const test = suite('order')
test.before(async () => {
  image = await imageIn(docker, await ensureBusybox(docker))
  reconciler.start()
})
test.after(async () => {
  reconciler.want(new Map(), new Set())
  reconciler.stop()
  const keys = new Set((await engine.containers()).map(({ key }) => key))
  await Promise.all([...keys].map((key) => engine.remove(key, 0)))
  await Promise.all([...keys].map((key) => engine.removeVolumes(key)))
  files.see(new Map(), () => false)
})

/** Wants a chute, alone, and returns the key of its instance. */
function run(services: string, rest = ''): string {
  const text = `services:\n${services.replaceAll('IMAGE', `image: ${BUSYBOX}`)}\n${rest}`
  const manifest = parseManifest(text, 'compose.yaml', { rights: ['*'] })
  const spec = toSpec(manifest, new Map(manifest.services.map(({ name }) => [name, { images: [image] }])))
  const key = hex(randomBytes(24))
  const names = { instance: 'x.0', chute: 'x', chuteKey: key, revision: '1', epoch: '1', generation: '1' }
  const plan: InstancePlan = { key, ...names, spec, environment: {} }
  reconciler.want(new Map([[key, { plan, subject: unhex(key), revision: 1, epoch: 1 }]]), new Set())
  return key
}

const report = (key: string) => reconciler.instances().find(({ instance }) => hex(instance) === key)
const reportOf = (key: string, state: string, reason?: string) =>
  until(
    `${state} ${reason ?? ''}`,
    () => report(key)?.state === state && (reason === undefined || report(key)!.reason === reason) && report(key),
    { deadlineMs: 60_000, everyMs: 20 },
  )
const statesOf = async (key: string): Promise<Record<string, ContainerState>> =>
  Object.fromEntries((await engine.containers()).filter((one) => one.key === key).map((one) => [one.service, one]))

/** What a line of shell prints in a service. */
async function inside(key: string, service: string, line: string): Promise<string> {
  const exec = await docker
    .getContainer((await statesOf(key))[service]!.id)
    .exec({ Cmd: ['sh', '-c', line], AttachStdout: true, AttachStderr: true, Tty: true })
  const stream = await exec.start({ Tty: true })
  let text = ''
  stream.on('data', (chunk) => {
    text += chunk
  })
  await until('the line to end', async () => !(await exec.inspect()).Running && stream.readableEnded)
  return text.replaceAll('\r\n', '\n').trim()
}

test('services start in the order that they wait for each other, and what may end is done when it has', async () => {
  const key = run(
    `  web:
    IMAGE
    command: [sleep, "1000"]
    depends_on: {job: {condition: service_completed_successfully}, db: {condition: service_healthy}}
  job: {IMAGE, user: "1000", command: [sh, -c, "until [ -e /data/go ]; do sleep 0.1; done"], volumes: ["data:/data"], depends_on: {db: {condition: service_healthy}}}
  db:
    IMAGE
    command: [sleep, "1000"]
    user: "1000"
    volumes: [data:/data]
    healthcheck: {test: test -e /data/healthy, interval: 200ms, retries: 1000}`,
    'volumes: {data: }',
  )
  await reportOf(
    key,
    'starting',
    'web waits for job to end with status 0 and db to be healthy; job waits for db to be healthy',
  )
  let states = await statesOf(key)
  assert.equal([states.web!.startedAt, states.job!.startedAt], [null, null])

  await inside(key, 'db', 'touch /data/healthy')
  await reportOf(key, 'starting', 'web waits for job to end with status 0')
  states = await statesOf(key)
  assert.equal([states.web!.startedAt, states.job!.running], [null, true])

  await inside(key, 'db', 'touch /data/go')
  await reportOf(key, 'healthy')
  states = await statesOf(key)
  assert.equal([states.web!.running, states.job!.running, states.job!.exitCode], [true, false, 0])
  const times = ['db', 'job', 'web'].map((name) => Date.parse(states[name]!.startedAt!))
  assert.equal(
    times,
    [...times].sort((a, b) => a - b),
  )

  // As after a power cut: the order is kept, and what is done stays so.
  const { startedAt } = states.job!
  await inside(key, 'db', 'rm /data/healthy')
  const dead = await Promise.all(['web', 'db'].map((name) => docker.getContainer(states[name]!.id).kill()))
  assert.is(dead.length, 2)
  await reportOf(key, 'starting', 'web waits for db to be healthy')
  assert.not((await statesOf(key)).web!.running)
  await inside(key, 'db', 'touch /data/healthy')
  await reportOf(key, 'healthy')
  assert.is((await statesOf(key)).job!.startedAt, startedAt)
})

test('what failed and need not be there is not waited for, and what fails is started again', async () => {
  const key = run(`  web:
    IMAGE
    command: [sleep, "1000"]
    depends_on: {extra: {condition: service_completed_successfully, required: false}}
  extra: {IMAGE, command: [sh, -c, "exit 3"]}`)
  await until('web to run', async () => (await statesOf(key)).web?.running, { deadlineMs: 60_000 })
  assert.ok(events.some(({ kind, reason }) => kind === 'crashed' && reason === 'exited with status 3'))
})

test('with restart: true a service is started anew after what it depends on', async () => {
  const key =
    run(`  web: {IMAGE, command: [sleep, "1000"], stop_grace_period: 1s, depends_on: {db: {condition: service_started, restart: true}}}
  other: {IMAGE, command: [sleep, "1000"], depends_on: [db]}
  db: {IMAGE, command: [sleep, "1000"]}`)
  await reportOf(key, 'running')
  const before = await statesOf(key)
  await docker.getContainer(before.db!.id).kill()
  const after = await until(
    'web to be started anew',
    async () => {
      const states = await statesOf(key)
      return states.web!.running && states.web!.startedAt !== before.web!.startedAt && states
    },
    { deadlineMs: 60_000 },
  )
  assert.ok(Date.parse(after.web!.startedAt!) > Date.parse(after.db!.startedAt!))
  assert.is(after.other!.startedAt, before.other!.startedAt)
})

test('a container has what its manifest says: PID 1, signal, files, names, limits, logs', async () => {
  const key = run(
    `  web:
    IMAGE
    command: [sh, -c, "trap 'echo got > /data/signal; exit 0' USR1; while :; do sleep 0.1; done"]
    init: false
    stop_signal: SIGUSR1
    volumes: [data:/data]
    hostname: box
    domainname: lan
    extra_hosts: ["printer=10.9.8.7"]
    dns: 10.9.8.1
    dns_search: [lan]
    dns_opt: ["ndots:2"]
    user: "1000:1000"
    group_add: ["2000"]
    tty: true
    stdin_open: true
    shm_size: 2m
    ulimits: {nofile: {soft: 100, hard: 200}}
    logging: {driver: json-file, options: {max-size: 1m, max-file: "2"}}
    configs: [{source: app, target: /etc/app/app.conf, uid: "1000", mode: 0400}, readable]
  plain: {IMAGE, command: [sleep, "1000"], volumes: ["data:/data"]}`,
    'volumes: {data: }\nconfigs: {app: {content: "a=1"}, readable: {content: "b=2"}}',
  )
  await reportOf(key, 'running')
  const probes: Record<string, RegExp> = {
    'cat /proc/1/comm': /^sh$/,
    'hostname; cat /proc/sys/kernel/domainname': /^box\nlan$/,
    'grep printer /etc/hosts': /^10\.9\.8\.7\s+printer$/,
    'cat /etc/resolv.conf': /search lan[\s\S]*ndots:2/,
    'id -G': /^1000 2000$/,
    'df -k /dev/shm | grep -o "shm *[0-9][0-9]*"': /^shm *2048$/,
    'ulimit -Sn; ulimit -Hn': /^100\n200$/,
    'cat /etc/app/app.conf; ls -ln /etc/app/app.conf; echo x > /etc/app/app.conf':
      /^a=1-r-{8} +1 1000 +0 .*\n.*(Permission denied|Read-only)/,
    'cat /readable; ls -l /readable': /^b=2-r--r--r--/,
  }
  for (const [line, prints] of Object.entries(probes)) {
    const printed = await inside(key, 'web', line)
    assert.match(printed, prints, `${line}: ${printed}`)
  }
  assert.match(await inside(key, 'plain', 'cat /proc/1/cmdline'), /init/)
  const { web } = await statesOf(key)
  const { HostConfig, Config } = await docker.getContainer(web!.id).inspect()
  assert.equal(HostConfig.LogConfig, { Type: 'json-file', Config: { 'max-size': '1000000', 'max-file': '2' } })
  assert.equal([HostConfig.Dns, Config.Tty, Config.OpenStdin], [['10.9.8.1'], true, true])
  reconciler.want(new Map(), new Set())
  await until('the containers to go', async () => Object.keys(await statesOf(key)).length === 0, { deadlineMs: 60_000 })
  const again = run(`  plain: {IMAGE, command: [sleep, "1000"]}`)
  await reportOf(again, 'running')
  const [volume] = (
    await (docker.listVolumes as (options: object) => ReturnType<typeof docker.listVolumes>)({
      filters: { label: [`dropmesh.chute-key=${key}`] },
    })
  ).Volumes
  assert.ok(volume)
  const reader = await docker.createContainer({
    Image: BUSYBOX,
    Cmd: ['cat', '/data/signal'],
    HostConfig: { Binds: [`${volume!.Name}:/data`], NetworkMode: 'none' },
  })
  try {
    await reader.start()
    assert.is((await reader.wait()).StatusCode, 0, 'the signal arrived')
  } finally {
    await reader.remove({ force: true })
    await engine.removeVolumes(key)
  }
})

test('what cannot be is waited for in words, and started never', () => {
  const state = (service: string, more: Partial<ContainerState> = {}) =>
    [service, { service, running: false, health: 'none', exitCode: null, startedAt: null, ...more }] as unknown as [
      string,
      ContainerState,
    ]
  const waits = (
    name: string,
    service: string,
    condition: 'service_started' | 'service_healthy' = 'service_started',
  ) => ({
    name,
    dependsOn: [{ service, condition }],
  })
  const circle = orderOf(
    [waits('a', 'b'), waits('b', 'a'), waits('c', 'no')],
    new Map([state('a'), state('b'), state('c')]),
  )
  assert.equal(circle.ready, [])
  assert.equal(
    [...circle.waiting.values()],
    [...['a waits for b to start', 'b waits for a to start', 'c waits for no, which its chute does not have']],
  )
  const unchecked = orderOf(
    [waits('a', 'b', 'service_healthy')],
    new Map([state('a'), state('b', { running: true, startedAt: 'x' })]),
  )
  assert.equal([...unchecked.waiting.values()], ['a waits for b, which has no health check'])
  const [, ended] = state('a', { startedAt: 'x', exitCode: 0 })
  assert.equal(
    [isDone(ended), isDone({ ...ended, mayEnd: true }), isDone({ ...ended, mayEnd: true, exitCode: 1 })],
    [false, true, false],
  )
})

test.run()
