// What a person types: publish again, stop, start, restart, rm; and what every command prints and answers.
import { execFile } from 'node:child_process'
import { readdir, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { z } from 'zod'
import { ensureBusybox } from '../support/busybox.js'
import { eventually, main, type TestAp, TestMesh } from '../support/mesh.js'

const mesh = new TestMesh()
const named = (name: string): TestAp => mesh.aps.find((ap) => ap.name === name)!
test.before(async () => {
  await ensureBusybox(mesh.docker)
  assert.is((await mesh.cli(['keys', 'new', 'alice'])).status, 0)
  await mesh.start(2)
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

interface HistoryRow {
  revision: number
  hash: string
  state: string
  diff: string
}

test('history tells each revision and its change, and from any AP a rollback puts an earlier one in force', async () => {
  const rows = await named('ap2').json<HistoryRow[]>('history', 'web')
  assert.equal(
    rows.map(({ revision, state }) => [revision, state]),
    [
      [2, 'in-force'],
      [1, 'superseded'],
    ],
  )
  assert.match(rows[0]!.diff, /^--- web revision 1 .*\n\+\+\+ web revision 2 .*\n@@/)
  const changed = rows[0]!.diff.split('\n').filter((line) => /^[+-] /.test(line))
  assert.equal(changed, ['+    environment:', '+      COLOUR: blue'])
  const { stdout } = await named('ap1').cli('history', 'web')
  assert.match(
    stdout,
    /^REVISION +HASH +PUBLISHER +SIGNED +CHANGES +STATE\n2 +[0-9a-f]{12} .*\+2 -0 +in force\n1 +.* - {2,}superseded\n/,
  )
  assert.match(stdout, /^\+ {6}COLOUR: blue$/m)
  assert.not.match(stdout, '+services:', 'no more than the last change')
  assert.match((await named('ap1').cli('history', 'web', '--diff')).stdout, '+services:')

  const colours = async () => {
    const [container, ...more] = await mesh.running('web', 1)
    assert.is(more.length, 0)
    const { Config } = await mesh.docker.getContainer(container!.id).inspect()
    return { revision: container!.revision, colours: Config.Env.filter((pair) => pair.startsWith('COLOUR=')) }
  }
  const back = await named('ap2').json<{ revision: number; restored: number; placed: { state: string }[] }>(
    'rollback',
    'web',
  )
  assert.equal([back.revision, back.restored, back.placed[0]!.state], [3, 1, 'running'])
  await eventually('the first revision to run as the third', async () => {
    const now = await colours()
    return now.revision === '3' && now.colours.length === 0
  })
  const { status, stderr } = await named('ap1').cli('rollback', 'web', rows[0]!.hash.slice(0, 12))
  assert.is(status, 0, stderr)
  assert.match(stderr, /rolling web back to revision 2 .*\npublished web, revision 4; 2 APs hold the record\n/)
  await eventually('the second revision to run as the fourth', async () => (await colours()).revision === '4')
  assert.equal((await colours()).colours, ['COLOUR=blue'])
})

test('a rollback that cannot be says why, and changes nothing', async () => {
  const refused = async (why: RegExp, ...args: string[]) => {
    const { status, stderr } = await named('ap1').cli('rollback', ...args)
    assert.is(status, 1)
    assert.match(stderr, why)
  }
  await refused(
    /^dropmesh: web has no revision "9"; kept are revision 4 \(.*\), .*, revision 1 \([0-9a-f]{12}\)\n$/,
    'web',
    '9',
  )
  await refused(/^dropmesh: revision 4 .* of web is in force\n$/, 'web', '4')
  await refused(/^dropmesh: there is no chute "nothing"; see "dropmesh ls"\n$/, 'nothing')
  await refused(/there is no key "carol"/, 'web', '1', '--key', 'carol')
  const nobody = { XDG_DATA_HOME: join(mesh.dir, 'nobody') }
  const { status, stderr } = await mesh.cli(['rollback', 'web', '--data', named('ap1').data], nobody)
  assert.is(status, 1)
  assert.match(stderr, /web belongs to publisher [0-9a-f]{12}, and you do not have that key here/)
  assert.is((await named('ap1').json<HistoryRow[]>('history', 'web'))[0]!.revision, 4)
})

test('a stopped chute that is published again stays stopped, and nobody waits for it', async () => {
  assert.is((await named('ap1').cli('stop', 'web')).status, 0)
  await gone('web')
  const { status, stdout, stderr } = await named('ap1').cli('rollback', 'web', '--json')
  assert.is(status, 0, stderr)
  assert.equal(JSON.parse(stdout).placed, [])
  assert.match(stderr, 'web is stopped; start it with "dropmesh start web"')
  assert.is((await named('ap1').cli('start', 'web')).status, 0)
  await mesh.running('web', 1)
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
  for (const command of ['history', 'rollback'])
    assert.match((await other.cli(command, 'web')).stderr, 'there is no chute "web" any more: it was removed')
})

test('a name that was removed can be published again, as a new chute without the history of the old one', async () => {
  const { revision, placed } = await mesh.publish(named('ap1'), 'web')
  assert.equal([revision, placed[0]!.state], [1, 'running'])
  for (const ap of mesh.aps) assert.is((await ap.json<HistoryRow[]>('history', 'web')).length, 1)
})

test('nobody controls a chute without the key of its publisher', async () => {
  const { status, stderr } = await mesh.cli(['stop', 'web', '--data', named('ap1').data], {
    XDG_DATA_HOME: join(mesh.dir, 'nobody'),
  })
  assert.is(status, 1)
  assert.match(stderr, /web belongs to publisher [0-9a-f]{12}, and you do not have that key here/)
  assert.is((await mesh.running('web', 1)).length, 1)
})

test('an AP is drained on another one, with the key of an admin, also one for SSH, and with no other', async () => {
  const viewer = named('ap1')
  const state = async () => (await viewer.aps()).find(({ name }) => name === 'ap2')!.state
  const signedBy = async (key: string) => {
    const { publisher } = JSON.parse((await mesh.cli(['keys', 'show', key, '--json'])).stdout)
    const { signed } = await viewer.json<{ signed: { what: string }[] }>('inspect', publisher)
    return signed.map(({ what }) => what).filter((what) => what.includes('drain'))
  }
  const file = join(mesh.dir, 'id_ed25519')
  await promisify(execFile)('ssh-keygen', ['-q', '-t', 'ed25519', '-N', '', '-f', file])
  const nobody = await viewer.cli('drain', 'ap2', '--key', file)
  assert.equal([nobody.status, nobody.stdout], [1, ''])
  assert.match(
    nobody.stderr,
    /^dropmesh: key [0-9a-f]{64} is no admin and can sign no drain record; use the key of one with --key \(see "dropmesh grants"\)\n$/,
  )
  assert.is(await state(), 'alive')
  const drained = await viewer.cli('drain', 'ap2')
  assert.is(drained.status, 0, drained.stderr)
  assert.match(drained.stdout, /^ap2 is being drained; "dropmesh ps" shows what is left; 2 APs hold the record\n$/)
  assert.is(await state(), 'draining')
  assert.equal(await signedBy('alice'), ['the drain of AP ap2'])
  assert.is((await viewer.cli('grant', file, '--role', 'admin')).status, 0)
  assert.is((await viewer.cli('undrain', 'ap2', '--key', file)).status, 0)
  assert.is(await state(), 'alive')
  assert.equal(await signedBy(file), ['the drain of AP ap2'])
})

const time = z.iso.datetime()
const nullable = z.string().nullable()
const upStates = ['fetching', 'starting', 'running', 'healthy', 'unhealthy', 'stopping', 'failed'] as const
const instanceState = z.enum([...upStates, 'waiting'])
/** The fields that scripts may rely on; more may stand beside them. */
const contract: [args: string[], shape: z.ZodType][] = [
  [
    ['status'],
    z.object({
      ap: z.object({ id: z.string(), name: z.literal('ap1') }),
      mesh: z.string(),
      version: z.string(),
      state: z.literal('running'),
      peers: z.literal(1),
      ledger: z.object({ records: z.int() }),
      docker: z.object({ version: z.string() }),
      warnings: z.array(z.string()),
    }),
  ],
  [
    ['aps'],
    z
      .array(
        z.object({
          id: z.string(),
          name: z.string(),
          state: z.enum(['alive', 'suspect', 'dead', 'left', 'draining']),
          labels: z.record(z.string(), z.string()),
          capacity: z.object({ cpus: z.number().positive(), memory: z.int().positive() }),
          instances: z.int(),
          lastHeard: time,
        }),
      )
      .length(2),
  ],
  [
    ['ls'],
    z
      .array(
        z.object({
          chute: z.string(),
          publisher: z.string().regex(/^[0-9a-f]{64}$/),
          revision: z.int(),
          wanted: z.int(),
          running: z.int(),
          healthy: z.int(),
          desired: z.enum(['running', 'stopped', 'removed']),
        }),
      )
      .min(2),
  ],
  [
    ['ps'],
    z
      .array(
        z.object({
          chute: z.string(),
          instance: z.string(),
          ap: nullable,
          apName: nullable,
          state: instanceState,
          epoch: z.int(),
          revision: z.int(),
          since: time.nullable(),
          reason: nullable,
        }),
      )
      .min(2),
  ],
  [
    ['history', 'web'],
    z
      .array(
        z.object({
          chute: z.literal('web'),
          publisher: z.string().regex(/^[0-9a-f]{64}$/),
          revision: z.int(),
          signed: time,
          state: z.enum(['in-force', 'superseded', 'lost', 'future']),
          hash: z.string().regex(/^[0-9a-f]{64}$/),
          lostTo: nullable,
          before: nullable,
          manifest: z.string().regex(/^services:\n {2}main:\n {4}image: /),
          diff: nullable,
          added: z.int().nullable(),
          removed: z.int().nullable(),
        }),
      )
      .min(1),
  ],
  [
    ['inspect', 'web'],
    z.object({
      chute: z.literal('web'),
      record: z.object({ hash: z.string(), signer: z.string(), signed: time, signature: z.literal('verified') }),
      claims: z.array(z.object({ ap: z.string(), epoch: z.int(), cause: z.string(), signed: time })).min(1),
      history: z.array(z.object({ revision: z.int(), signer: z.string(), signed: time })).min(1),
    }),
  ],
  [
    ['inspect', 'ap2'],
    z.object({
      id: z.string(),
      name: z.literal('ap2'),
      watchers: z.array(z.object({ id: z.string() })).length(1),
      accusations: z.array(z.object({ byName: z.string(), stands: z.boolean() })),
      beacon: z.object({ boot: z.int(), sequence: z.int() }),
      instances: z.array(z.unknown()),
    }),
  ],
]

test('what --json prints has the fields that scripts use', async () => {
  await mesh.publish(named('ap1'), 'nowhere', {}, ['--detach', '--on', 'no=where'])
  for (const [args, shape] of contract) {
    const { success, error } = shape.safeParse(await named('ap1').json(...args))
    assert.ok(success, `${args.join(' ')}: ${error && z.prettifyError(error)}`)
  }
  assert.is((await named('ap1').cli('rm', 'nowhere')).status, 0)
})

test('each event is one JSON object a line, with its time and kind', async () => {
  const { stdout } = await named('ap1').cli('events', '--json')
  const events = stdout
    .trim()
    .split('\n')
    .map((line) => z.object({ at: time, kind: z.string() }).parse(JSON.parse(line)))
  for (const kind of ['up', 'joined', 'published', 'claimed', 'removed'])
    assert.ok(
      events.some((event) => event.kind === kind),
      kind,
    )
})

test('--json prints one document and nothing else on stdout, whatever the command', async () => {
  const [ap, other] = mesh.aps
  const dir = await mesh.chute('plain', { main: {} })
  const published = z.object({
    chute: z.literal('plain'),
    revision: z.literal(1),
    package: z.string().regex(/^[0-9a-f]{64}$/),
    placed: z
      .array(z.object({ instance: z.literal('plain.0'), ap: z.string(), state: z.literal('running') }))
      .length(1),
  })
  const { success, error } = published.safeParse(await ap!.json('publish', dir))
  assert.ok(success, error && z.prettifyError(error))
  for (const args of [
    ['publish', dir, '--dry-run'],
    ['stop', 'plain'],
    ['start', 'plain'],
    ['restart', 'plain'],
    ['rm', 'plain'],
    ['invite', '--ttl', '1h'],
    ['drain', other!.name],
    ['undrain', other!.name],
    ['doctor'],
  ])
    assert.type(await ap!.json(...args), 'object', args.join(' '))
  for (const args of [
    ['keys', 'new', 'bob'],
    ['keys', 'ls'],
    ['keys', 'show', 'bob'],
    ['init', '--list'],
    ['init', 'made'],
  ]) {
    const { status, stdout, stderr } = await mesh.cli([...args, '--json'], { XDG_DATA_HOME: join(mesh.dir, 'bob') })
    assert.is(status, 0, stderr)
    assert.type(JSON.parse(stdout), 'object', args.join(' '))
  }
})

test('tables for people have no escape codes where stdout is no terminal', async () => {
  for (const args of [
    ['status'],
    ['aps'],
    ['ls'],
    ['ps'],
    ['events'],
    ['inspect', 'web'],
    ['history', 'web', '--diff'],
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

test('a terminal shows colours, and with NO_COLOR none', async () => {
  const onTerminal = (env: NodeJS.ProcessEnv) =>
    promisify(execFile)(
      'script',
      ['-qec', `${process.execPath} ${main} aps --data ${named('ap1').data}`, '/dev/null'],
      {
        env: { PATH: process.env.PATH, TERM: 'xterm', ...env },
      },
    )
  assert.match((await onTerminal({})).stdout, '\u001b[32malive')
  const { stdout } = await onTerminal({ NO_COLOR: '1' })
  assert.match(stdout, 'alive')
  assert.not.match(stdout, '\u001b')
})

test('every command has help with an example, and wrong usage ends with status 2', async () => {
  const { stdout } = await mesh.cli(['--help'])
  const commands = [...stdout.matchAll(/^ {2}([a-z]+) /gm)]
    .map(([, name]) => name!)
    .filter((name) => !['help', 'keys', 'token', 'secret'].includes(name))
    .concat('keys new', 'keys ls', 'keys show', 'keys export', 'keys import', 'token new', 'token ls', 'token rm')
    .concat('secret set', 'secret ls', 'secret rm')
  assert.ok(commands.length >= 18, commands.join(' '))
  await Promise.all(
    commands.map(async (name) => {
      const help = await mesh.cli([...name.split(' '), '--help'])
      assert.is(help.status, 0)
      assert.match(help.stdout, /\$ .*dropmesh/, name)
    }),
  )
  for (const args of [['nonsense'], ['ps', '--nonsense'], ['rm'], ['rollback'], ['history'], ['keys', 'new']])
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
  const { placed } = await mesh.publish(named('ap1'), 'elsewhere', {}, [
    '--detach',
    '--on',
    'else=where',
    '--key',
    'alice',
  ])
  assert.equal(placed, [{ instance: 'elsewhere.0', ap: null, state: 'waiting' }])
})

test.run()
