// What a person types: publish again, stop, start, restart, rm; and what every command prints and answers.
import { readdir, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { ensureBusybox } from '../support/busybox.js'
import { eventually, type TestAp, TestMesh } from '../support/mesh.js'

const mesh = new TestMesh()
const named = (name: string): TestAp => mesh.aps.find((ap) => ap.name === name)!
test.before(async () => {
  await ensureBusybox(mesh.docker)
  await mesh.start(2)
  assert.is((await mesh.cli(['keys', 'new', 'alice'])).status, 0)
})
test.after(() => mesh.close())

const gone = (chute: string) =>
  eventually(`${chute} to have no container`, async () => (await mesh.containers(chute)).length === 0)

test('a new revision replaces the containers, and every AP names it', async () => {
  await mesh.publish(named('ap1'), 'web')
  const [before] = await mesh.running('web', 1)
  const { revision } = await mesh.publish(named('ap2'), 'web', { environment: { COLOUR: 'blue' } })
  assert.is(revision, 2)
  const after = await eventually('only the new container to run', async () => {
    const containers = await mesh.containers('web')
    return containers.length === 1 && containers[0]!.running && containers[0]!.revision === '2' && containers[0]!
  })
  assert.is.not(after.id, before!.id)
  for (const ap of mesh.aps) {
    await eventually(`${ap.name} to name revision 2`, async () => {
      const [row] = await ap.json<{ revision: number; running: number }[]>('ls')
      return row?.revision === 2 && row.running === 1
    })
  }
})

test('stop, start, restart and rm work from another AP than the one that published', async () => {
  const other = named('ap2')
  assert.is((await other.cli('stop', 'web')).status, 0)
  await gone('web')
  assert.is((await other.json<{ desired: string }[]>('ls'))[0]!.desired, 'stopped')
  assert.is((await other.cli('start', 'web')).status, 0)
  const [started] = await mesh.running('web', 1)
  assert.is((await other.cli('restart', 'web')).status, 0)
  await eventually('another container to run', async () => {
    const containers = await mesh.containers('web')
    return containers.length === 1 && containers[0]!.running && containers[0]!.id !== started!.id
  })
  assert.is((await other.cli('rm', 'web')).status, 0)
  await gone('web')
  const { status, stderr } = await other.cli('restart', 'web')
  assert.is(status, 1)
  assert.match(stderr, 'there is no chute "web" any more: it was removed')
})

test('a name that was removed can be published again, as a new chute', async () => {
  const { placed } = await mesh.publish(named('ap1'), 'web')
  assert.is(placed[0]!.state, 'running')
  const { creation, history } = await named('ap1').json<{ creation: string; history: { creation: string }[] }>(
    'inspect',
    'web',
  )
  assert.ok(history.some((old) => old.creation < creation))
})

test('nobody controls a chute without the key of its publisher', async () => {
  const { status, stderr } = await mesh.cli(['stop', 'web', '--data', named('ap1').data], {
    XDG_DATA_HOME: join(mesh.dir, 'nobody'),
  })
  assert.is(status, 1)
  assert.match(stderr, /web belongs to publisher [0-9a-f]{12}, and you do not have that key here/)
  assert.is((await mesh.running('web', 1)).length, 1)
})

/** Shapes of the contract: a name and a type a field. */
const shapes: Record<string, [args: string[], fields: Record<string, string>]> = {
  status: [
    ['status'],
    {
      ap: 'object',
      mesh: 'string',
      version: 'string',
      state: 'string',
      peers: 'number',
      ledger: 'object',
      docker: 'object',
      warnings: 'object',
    },
  ],
  aps: [
    ['aps'],
    {
      id: 'string',
      name: 'string',
      state: 'string',
      labels: 'object',
      capacity: 'object',
      instances: 'number',
      lastHeard: 'string',
    },
  ],
  ls: [
    ['ls'],
    {
      chute: 'string',
      publisher: 'string',
      revision: 'number',
      wanted: 'number',
      running: 'number',
      healthy: 'number',
      desired: 'string',
    },
  ],
  ps: [
    ['ps'],
    {
      chute: 'string',
      instance: 'string',
      ap: 'string',
      apName: 'string',
      state: 'string',
      epoch: 'number',
      revision: 'number',
      since: 'string',
    },
  ],
  'inspect chute': [['inspect', 'web'], { chute: 'string', record: 'object', claims: 'object', history: 'object' }],
  'inspect AP': [['inspect', 'ap2'], { id: 'string', watchers: 'object', accusations: 'object', beacon: 'object' }],
}

test('--json prints one document with the fields that scripts use', async () => {
  for (const [what, [args, fields]] of Object.entries(shapes)) {
    const answer = await named('ap1').json<object | object[]>(...args)
    for (const item of Array.isArray(answer) ? answer : [answer]) {
      for (const [field, type] of Object.entries(fields)) {
        assert.type((item as Record<string, unknown>)[field], type as 'string', `${what}: ${field}`)
      }
    }
  }
  const { stdout } = await named('ap1').cli('events', '--json')
  const events = stdout
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line))
  assert.ok(events.every(({ at, kind }) => !Number.isNaN(Date.parse(at)) && typeof kind === 'string'))
  for (const kind of ['up', 'joined', 'published', 'claimed', 'removed'])
    assert.ok(
      events.some((event) => event.kind === kind),
      kind,
    )
})

test('tables for people have no escape codes where stdout is no terminal', async () => {
  for (const args of [
    ['status'],
    ['aps'],
    ['ls'],
    ['ps'],
    ['events'],
    ['inspect', 'web'],
    ['keys', 'ls'],
    ['init', '--list'],
  ]) {
    const { status, stdout, stderr } =
      args[0] === 'keys' || args[0] === 'init' ? await mesh.cli(args) : await named('ap1').cli(...args)
    assert.is(status, 0, stderr)
    assert.ok(stdout.length > 0)
    assert.not.match(stdout, '\u001b')
  }
})

test('every command has help with an example, and wrong usage ends with status 2', async () => {
  const { stdout } = await mesh.cli(['--help'])
  const commands = [...stdout.matchAll(/^ {2}([a-z]+) /gm)]
    .map(([, name]) => name!)
    .filter((name) => !['help', 'keys'].includes(name))
  assert.ok(commands.length >= 18, commands.join(' '))
  await Promise.all(
    commands.map(async (name) => {
      const help = await mesh.cli([name, '--help'])
      assert.is(help.status, 0)
      assert.match(help.stdout, '$ dropmesh', name)
    }),
  )
  for (const args of [['nonsense'], ['ps', '--nonsense'], ['rm'], ['keys', 'new']])
    assert.is((await mesh.cli(args)).status, 2, args.join(' '))
})

test('a command without a node says so in one line, and doctor says what to do', async () => {
  const nowhere = ['--data', join(mesh.dir, 'nowhere')]
  const status = await mesh.cli(['status', ...nowhere])
  assert.is(status.status, 1)
  assert.match(status.stderr, /^dropmesh: no node runs on .*; start it with "dropmesh up".*\n$/)
  const ill = await mesh.cli(['doctor', ...nowhere, '--json'])
  assert.is(ill.status, 1)
  const findings = JSON.parse(ill.stdout) as { check: string; ok: boolean; advice: string | null }[]
  assert.ok(findings.find(({ check }) => check === 'node')!.advice!.includes('dropmesh up'))
  const well = await named('ap1').cli('doctor')
  assert.is(well.status, 0, well.stdout + well.stderr)
})

test('publisher keys are files that only their owner reads', async () => {
  const { publisher } = JSON.parse((await mesh.cli(['keys', 'show', 'alice', '--json'])).stdout)
  assert.match(publisher, /^[0-9a-f]{64}$/)
  const dir = join(mesh.dir, 'user', 'dropmesh', 'keys')
  for (const file of await readdir(dir)) assert.is((await stat(join(dir, file))).mode & 0o777, 0o600)
  const again = await mesh.cli(['keys', 'new', 'alice'])
  assert.is(again.status, 1)
  assert.match(again.stderr, 'there is a key "alice" already')
})

test('a dry run publishes nothing, and --detach does not wait', async () => {
  const dir = await mesh.chute('dry', { main: {} })
  const { status, stderr } = await named('ap1').cli('publish', dir, '--dry-run')
  assert.is(status, 0, stderr)
  assert.not.ok((await named('ap1').json<{ chute: string }[]>('ls')).some(({ chute }) => chute === 'dry'))
  const { placed } = await mesh.publish(named('ap1'), 'nowhere', {}, ['--detach', '--on', 'no=where'])
  assert.equal(placed, [{ instance: 'nowhere.0', ap: null, state: 'waiting' }])
})

test.run()
