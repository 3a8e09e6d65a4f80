// Copies of keys: what a passphrase locks comes back whole, and a mesh does without its owner key.
import { existsSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { needTools } from '../support/hosts.js'
import { type Finished, type TestAp, TestMesh } from '../support/mesh.js'
import { atTerminal } from '../support/terminal.js'

const mesh = new TestMesh()
const at = (...parts: string[]): string => join(mesh.dir, ...parts)
const NO_ENGINE = { args: ['--docker-host', 'unix:///no/engine'] }
const GOOD = { DROPMESH_PASSPHRASE_FILE: at('good') }
const BAD = { DROPMESH_PASSPHRASE_FILE: at('bad') }
writeFileSync(at('good'), 'a good passphrase\n')
writeFileSync(at('bad'), 'a bad passphrase\n')
const elsewhere = { ...GOOD, XDG_DATA_HOME: at('elsewhere') }

async function done(args: string[], env: NodeJS.ProcessEnv = GOOD): Promise<Finished> {
  const finished = await mesh.cli(args, env)
  assert.is(finished.status, 0, finished.stderr)
  return finished
}

async function refused(why: RegExp, args: string[], env: NodeJS.ProcessEnv = GOOD): Promise<void> {
  const { status, stderr, stdout } = await mesh.cli(args, env)
  assert.is(status, 1, stdout)
  assert.match(stderr, why)
  assert.is(stderr.trimEnd().split('\n').length, 1, stderr)
}

const publisher = async (env?: NodeJS.ProcessEnv): Promise<string> =>
  (await done(['keys', 'show', 'alice'], env)).stdout

test.before(async () => {
  needTools(['script'])
  await done(['keys', 'new', 'alice'])
})
test.after(() => mesh.close())

test('a key that was exported is the same key where it is imported', async () => {
  await done(['keys', 'export', 'alice.backup'])
  assert.is(statSync(at('alice.backup')).mode & 0o777, 0o600)
  const secret = readFileSync(at('user', 'dropmesh', 'keys', 'alice.key'), 'utf8').trim()
  assert.not.ok(readFileSync(at('alice.backup'), 'utf8').includes(secret))
  await done(['keys', 'import', 'alice.backup'], elsewhere)
  assert.is(await publisher(elsewhere), await publisher())
  await done(['keys', 'import', 'alice.backup'], elsewhere) // once more changes nothing
})

test('an import takes the place of no other key', async () => {
  const other = { ...GOOD, XDG_DATA_HOME: at('other') }
  await done(['keys', 'new', 'alice'], other)
  const before = await publisher(other)
  await refused(/another key "alice" already; choose a name with --name/, ['keys', 'import', 'alice.backup'], other)
  assert.is(await publisher(other), before)
  await done(['keys', 'import', 'alice.backup', '--name', 'old'], other)
  assert.is((await done(['keys', 'show', 'old'], other)).stdout, await publisher())
})

test('a wrong passphrase and a damaged file are told apart', async () => {
  await refused(/this is not the passphrase of alice\.backup/, ['keys', 'import', 'alice.backup'], {
    ...elsewhere,
    ...BAD,
  })
  const text = readFileSync(at('alice.backup'), 'utf8')
  const broken: [string, RegExp][] = [
    // One digit of the box, of the salt, of the cost, and the end.
    [
      text.replace(/("box": ")(.)/, (_, key, digit) => key + (digit === '0' ? '1' : '0')),
      /is damaged: no passphrase opens it/,
    ],
    [text.replace(/("salt": ")(.)/, (_, key, digit) => key + (digit === '0' ? '1' : '0')), /is damaged/],
    [text.replace(/"N": \d+/, '"N": 4611686018427387904'), /is damaged/],
    [text.slice(0, -20), /is no file that "dropmesh keys export" wrote/],
    ['', /is no file that "dropmesh keys export" wrote/],
    ['null', /is no file that/],
  ]
  for (const [content, why] of broken) {
    writeFileSync(at('broken'), content)
    await refused(why, ['keys', 'import', 'broken'], elsewhere)
  }
  await refused(/nothing cannot be read/, ['keys', 'import', 'nothing'])
})

test('an export writes over no file, and needs a passphrase worth the name', async () => {
  await refused(/alice\.backup exists already/, ['keys', 'export', 'alice.backup'])
  writeFileSync(at('short'), '1234567')
  const short = { DROPMESH_PASSPHRASE_FILE: at('short') }
  await refused(/at least 8 characters, this one 7/, ['keys', 'export', 'short.backup'], short)
  await refused(/--remove goes with --mesh alone/, ['keys', 'export', 'short.backup', '--remove'])
  assert.not.ok(existsSync(at('short.backup')))
})

test('a person types a new passphrase twice', async () => {
  const run = (file: string, second: string) =>
    atTerminal(['keys', 'export', at(file)], mesh.env, [
      [/Passphrase for .*, at least 8 characters: /, 'typed by hand'],
      [/The same again: /, second],
    ])
  const differs = await run('differs', 'typed by foot')
  assert.is(differs.status, 1)
  assert.match(differs.screen, /the two passphrases differ; nothing was written/)
  assert.not.ok(existsSync(at('differs')))
  const { status, screen } = await run('typed', 'typed by hand')
  assert.is(status, 0, screen)
  assert.not.match(screen, /by hand/)
  writeFileSync(at('hand'), 'typed by hand')
  await done(['keys', 'import', at('typed')], { ...elsewhere, DROPMESH_PASSPHRASE_FILE: at('hand') })
})

let founder: TestAp
const owner = (ap: TestAp): string => join(ap.data, 'keys', 'mesh.key')
const onFounder = (...args: string[]): string[] => [...args, '--mesh', '--data', founder.data]

const shown = async (): Promise<string> => (await done(['status', '--data', founder.data])).stdout

test('the owner key leaves its AP only after a yes, and when the copy is good', async () => {
  founder = await mesh.add('founder', NO_ENGINE)
  assert.match(await shown(), /^Owner key +lies here in clear: .*"dropmesh keys export FILE --mesh --remove"$/m)
  const args = onFounder('keys', 'export', at('mesh.backup'), '--remove')
  const no = await atTerminal(args, mesh.env, [[/Type yes to go on: /, 'no']])
  assert.is(no.status, 1)
  assert.match(no.screen, /cancelled; nothing was changed/)
  assert.ok(existsSync(owner(founder)))
  assert.not.ok(existsSync(at('mesh.backup')))
  const { status, screen } = await atTerminal(args, { ...mesh.env, ...GOOD }, [[/Type yes to go on: /, 'yes']])
  assert.is(status, 0, screen)
  assert.match(screen, /can never get the key back: keep two copies/)
  assert.match(screen, new RegExp(`the owner key of mesh ${await mesh.meshId()} is in .*, and no longer on this AP`))
  assert.not.ok(existsSync(owner(founder)))
  assert.not.match(await shown(), /Owner key/)
  await refused(/there is no mesh key in /, onFounder('keys', 'export', at('again')))
})

test('without its owner key a mesh goes on: its AP restarts, stays an admin and lets others in', async () => {
  const joining = await mesh.add('second', NO_ENGINE)
  await mesh.settled()
  await founder.stop('SIGTERM')
  await founder.start()
  await mesh.settled()
  assert.is((await founder.status()).role, 'admin')
  assert.is((await founder.status()).mesh, (await joining.status()).mesh)
  await mesh.add('third', NO_ENGINE)
  await mesh.settled()
  assert.not.ok(existsSync(owner(founder)))
})

test('who copies the data folder of a founder without its owner key grants and revokes nothing, and lets in APs alone', async () => {
  assert.equal(readdirSync(join(founder.data, 'keys')), ['ap.key'])
  const stolen = ['--key', join(founder.data, 'keys', 'ap.key'), '--data', mesh.aps[1]!.data]
  await refused(/is no admin and can sign no grant record/, ['grant', 'alice', ...stolen])
  await refused(/is no admin and can sign no revocation record/, ['revoke', 'alice', ...stolen])
  await mesh.invite(mesh.aps[1]!, ...stolen.slice(0, 2))
  await done(['forget', 'founder', '--data', mesh.aps[1]!.data])
  await refused(/is no admin and can sign no grant record/, ['invite', ...stolen])
})

test('the owner key comes back to an AP of its mesh, and to no other', async () => {
  const stranger = new TestMesh()
  try {
    const other = await stranger.add('stranger', NO_ENGINE)
    const to = (data: string) => ['keys', 'import', at('mesh.backup'), '--mesh', '--data', data]
    const secret = readFileSync(owner(other), 'utf8')
    await refused(/stranger belongs to mesh \w{32}, not to \w{32}, whose key this is/, to(other.data))
    assert.is(readFileSync(owner(other), 'utf8'), secret)
    await refused(/is no AP of a mesh; let it join mesh \w{32} with a ticket first/, to(at('nowhere')))
    await refused(/holds the owner key of mesh \w{32}: say --mesh/, ['keys', 'import', at('mesh.backup')])
    await refused(/holds publisher key alice: leave out --mesh/, onFounder('keys', 'import', at('alice.backup')))
    const second = mesh.aps[1]!
    await refused(/there is no key .*mesh\.key/, ['invite', '--key', owner(second), '--data', second.data])
    await done(to(second.data))
    assert.ok(existsSync(owner(second)))
    await mesh.invite(second, '--key', owner(second))
  } finally {
    await stranger.close()
  }
})

test.run()
