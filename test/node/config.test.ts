import { mkdirSync, writeFileSync } from 'node:fs'
import { hostname } from 'node:os'
import { join } from 'node:path'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import {
  type Config,
  defaultDataDir,
  loadConfig,
  parseHostPort,
  parseLabels,
  type Settings,
} from '../../node/config.js'
import { MeshError } from '../../protocols/error.js'
import { scratch } from '../support/scratch.js'
import { refusalOf } from './realm.js'

const dir = scratch('config')
let count = 0

/** A data folder with this config.yaml in it. */
function folder(yaml?: string): string {
  const data = join(dir, String(count++))
  mkdirSync(data)
  if (yaml !== undefined) writeFileSync(join(data, 'config.yaml'), yaml)
  return data
}

/** Every setting: what it is called, and three values with what becomes of each. */
const settings: {
  key: keyof Settings
  variable: string
  of: (config: Config) => unknown
  missing: unknown
  file: [yaml: string, value: unknown]
  env: [text: string, value: unknown]
  flag: [given: unknown, value: unknown]
}[] = [
  {
    key: 'name',
    variable: 'DROPMESH_NAME',
    of: ({ name }) => name,
    missing: hostname().replace(/[^\w.-]/g, '-'),
    file: ['kitchen', 'kitchen'],
    env: ['cellar', 'cellar'],
    flag: ['roof', 'roof'],
  },
  {
    key: 'join',
    variable: 'DROPMESH_JOIN',
    of: ({ join }) => join,
    missing: undefined,
    file: ['dropmesh1aaa', 'dropmesh1aaa'],
    env: ['dropmesh1bbb', 'dropmesh1bbb'],
    flag: ['dropmesh1ccc', 'dropmesh1ccc'],
  },
  {
    key: 'found',
    variable: 'DROPMESH_FOUND',
    of: ({ found }) => found,
    missing: false,
    file: ['true', true],
    env: ['no', false],
    flag: [true, true],
  },
  {
    key: 'ask',
    variable: 'DROPMESH_ASK',
    of: ({ ask }) => ask,
    missing: undefined,
    file: ['abc', 'abc'],
    env: ['def', 'def'],
    flag: ['xyz', 'xyz'],
  },
  {
    key: 'open',
    variable: 'DROPMESH_OPEN',
    of: ({ open }) => open,
    missing: false,
    file: ['true', true],
    env: ['off', false],
    flag: [true, true],
  },
  {
    key: 'listen',
    variable: 'DROPMESH_LISTEN',
    of: ({ listen }) => listen,
    missing: undefined,
    file: ['[/ip4/0.0.0.0/tcp/1]', ['/ip4/0.0.0.0/tcp/1']],
    env: ['/ip4/127.0.0.1/tcp/2, /ip6/::1/tcp/0', ['/ip4/127.0.0.1/tcp/2', '/ip6/::1/tcp/0']],
    flag: [['/ip4/10.0.0.1/tcp/3'], ['/ip4/10.0.0.1/tcp/3']],
  },
  {
    key: 'label',
    variable: 'DROPMESH_LABEL',
    of: ({ label }) => label,
    missing: {},
    file: ['{site: home, floor: 2, roof: false}', { site: 'home', floor: '2', roof: 'false' }],
    env: ['site=work, gpu=', { site: 'work', gpu: '' }],
    flag: [{ a: 'b=c' }, { a: 'b=c' }],
  },
  {
    key: 'docker-host',
    variable: 'DROPMESH_DOCKER_HOST',
    of: ({ dockerHost }) => dockerHost,
    missing: undefined,
    file: ['unix:///run/a.sock', 'unix:///run/a.sock'],
    env: ['tcp://10.0.0.1:2375', 'tcp://10.0.0.1:2375'],
    flag: ['https://engine:2376', 'https://engine:2376'],
  },
  {
    key: 'light-base',
    variable: 'DROPMESH_LIGHT_BASE',
    of: ({ lightBases }) => lightBases,
    missing: {},
    file: ['{python3: "my/python:3"}', { python3: 'my/python:3' }],
    env: ['go=go:1, python2-cv=cv', { go: 'go:1', 'python2-cv': 'cv' }],
    flag: [{ maven: 'mvn' }, { maven: 'mvn' }],
  },
  {
    key: 'no-mdns',
    variable: 'DROPMESH_NO_MDNS',
    of: ({ mdns }) => mdns,
    missing: true,
    file: ['true', false],
    env: ['no', true],
    flag: [true, false],
  },
  {
    key: 'prefetch-max',
    variable: 'DROPMESH_PREFETCH_MAX',
    of: ({ prefetchMax }) => prefetchMax,
    missing: 2 * 1024 ** 3,
    file: ['0', 0],
    env: ['500m', 500 * 1024 ** 2],
    flag: ['1g', 1024 ** 3],
  },
  {
    key: 'http',
    variable: 'DROPMESH_HTTP',
    of: ({ http }) => http,
    missing: undefined,
    file: ['127.0.0.1:1', '127.0.0.1:1'],
    env: ['localhost:2', 'localhost:2'],
    flag: ['[::1]:3', '[::1]:3'],
  },
  {
    key: 'socket-group',
    variable: 'DROPMESH_SOCKET_GROUP',
    of: ({ socketGroup }) => socketGroup,
    missing: undefined,
    file: ['1000', '1000'],
    env: ['docker', 'docker'],
    flag: ['adm', 'adm'],
  },
]

for (const { key, variable, of, missing, file, env, flag } of settings) {
  test(`${key}: the flag counts before the variable, the variable before the file`, async () => {
    const data = folder(`${key}: ${file[0]}\n`)
    const variables = { [variable]: env[0] }
    assert.equal(of(await loadConfig(folder(), {}, {})), missing)
    assert.equal(of(await loadConfig(data, {}, {})), file[1])
    assert.equal(of(await loadConfig(data, {}, variables)), env[1])
    assert.equal(of(await loadConfig(data, { [key]: flag[0] }, variables)), flag[1])
    assert.equal(of(await loadConfig(folder(), { [key]: flag[0] }, {})), flag[1])
    assert.equal(of(await loadConfig(data, { [key]: undefined }, { [variable]: '' })), file[1], 'empty is none')
  })
}

test('the data folder is the one of the flag, the variable, or the usual one', async () => {
  assert.is((await loadConfig('/x', {}, { DROPMESH_DATA: '/y' })).data, '/x')
  assert.is(defaultDataDir({ DROPMESH_DATA: '/y' }), '/y')
  const uid = process.getuid
  try {
    process.getuid = () => 0
    assert.is(defaultDataDir({}), '/var/lib/dropmesh')
    process.getuid = () => 1000
    assert.is(defaultDataDir({ XDG_DATA_HOME: '/home/alice/.data' }), '/home/alice/.data/dropmesh/node')
  } finally {
    process.getuid = uid
  }
})

/** Bad values of each setting, as text for the variable, and as YAML for the file where that differs. */
const bad: [key: keyof Settings, env: string | undefined, yaml: string, reason: RegExp][] = [
  ['name', 'two words', 'two words', /use 1 to 63 letters/],
  ['name', 'ä', 'ä', /use 1 to 63 letters/],
  ['name', 'x'.repeat(64), 'x'.repeat(64), /use 1 to 63 letters/],
  ['name', undefined, '[a]', /string/],
  ['listen', '0.0.0.0:4010', '["0.0.0.0:4010"]', /"0.0.0.0:4010" is no address to listen on/],
  ['listen', '/ip4/999.0.0.1/tcp/1', '["/ip4/999.0.0.1/tcp/1"]', /no address to listen on/],
  ['listen', '/ip4/127.0.0.1/tcp/70000', '["/ip4/127.0.0.1/tcp/70000"]', /no address to listen on/],
  ['listen', '/ip4/127.0.0.1/udp/1', '["/ip4/127.0.0.1/udp/1"]', /no address to listen on/],
  ['listen', undefined, '[]', /at least one/],
  ['listen', undefined, '/ip4/0.0.0.0/tcp/1', /array/],
  ['label', 'site', '[site]', /key=value|record/],
  ['label', '=home', '{"": home}', /key=value|1 to 128 characters/],
  ['label', `a=${'x'.repeat(257)}`, `{a: ${'x'.repeat(257)}}`, /at most 256/],
  ['label', undefined, '{a: {b: c}}', /Invalid/],
  ['docker-host', '/var/run/docker.sock', '/var/run/docker.sock', /unix:\/\/\/path/],
  ['docker-host', 'ssh://host', 'ssh://host', /unix:\/\/\/path/],
  ['light-base', 'cobol=x', '{cobol: x}', /"cobol" is no language of light chutes: node, java, python2/],
  ['light-base', 'go=a b', '{go: a b}', /"a b" is not the name of an image/],
  ['light-base', undefined, '{go: [x]}', /Invalid/],
  ['no-mdns', 'perhaps', 'perhaps', /true or false|boolean/],
  ['ask', 'My Mesh', 'My Mesh', /id of a mesh/],
  ['prefetch-max', 'much', 'much', /500m or bytes/],
  ['prefetch-max', '-1', '-1', /500m or bytes/],
  ['socket-group', 'two words', 'two words', /number of a group/],
  ['http', '4080', '4080', /HOST:PORT|string/],
  ['http', 'localhost:99999', 'localhost:99999', /HOST:PORT/],
  ['http', '::1:80', '"::1:80"', /HOST:PORT/],
]

test('every bad value is refused, naming where it is and its key', async () => {
  for (const [key, env, yaml, reason] of bad) {
    const data = folder(`${key}: ${yaml}\n`)
    const inFile = await refusalOf(loadConfig(data, {}, {}), 'config')
    assert.ok(inFile.message.startsWith(`${join(data, 'config.yaml')}: ${key}`), inFile.message)
    assert.match(inFile.message, reason)
    if (env === undefined) continue
    const variable = settings.find((setting) => setting.key === key)!.variable
    const inVariable = await refusalOf(loadConfig(folder(), {}, { [variable]: env }), 'config')
    assert.ok(inVariable.message.startsWith(variable), inVariable.message)
    assert.match(inVariable.message, reason)
    assert.is((await loadConfig(folder(), {}, { [`${variable}_X`]: env })).mdns, true, 'others are not looked at')
  }
  const flags: [Settings, RegExp][] = [
    [{ name: 'two words' }, /^--name "two words": use/],
    [{ listen: ['x'] }, /^--listen: "x"/],
    [{ listen: [] }, /^--listen: give at least one/],
    [{ label: { '': 'x' } }, /^--label: ""/],
    [{ label: Object.fromEntries(Array.from({ length: 33 }, (_, i) => [`k${i}`, ''])) }, /^--label: .*32 labels/],
    [{ 'docker-host': 'x' }, /^--docker-host "x": write/],
    [{ http: 'x' }, /^--http "x": write/],
  ]
  for (const [given, reason] of flags)
    assert.match((await refusalOf(loadConfig(folder(), given, {}), 'config')).message, reason)
  assert.throws(
    () => parseLabels(['site'], '--label'),
    (error: unknown) => error instanceof MeshError && error.message === '--label "site": write it as key=value',
  )
})

test('a bad value is told even where a better one would count', async () => {
  await refusalOf(loadConfig(folder('name: two words\n'), { name: 'fine' }, {}), 'config')
})

test('a file that cannot be read, is no YAML, or has a key nobody knows is refused, naming it', async () => {
  for (const [yaml, reason] of [
    ['mdns: true\nname: [', /no YAML: .* at line 2$/],
    ['name: [{\n'.repeat(20), /:18: brackets are not closed/],
    ['- a\n- b\n', /object/],
    ['nmae: kitchen\n', /nmae/],
    ['name: kitchen\nname: cellar\n', /no YAML/],
    [`name: kitchen\n${'? '.repeat(750)}`, /:2: nested more than 16 deep/],
    [`name: ${'a'.repeat(70_000)}`, /longer than 64 KiB/],
    ['? {a: {b: 1}}\n: 1\n', /Unrecognized key/],
  ] as const) {
    const data = folder(yaml)
    const { message } = await refusalOf(loadConfig(data, {}, {}), 'config')
    assert.ok(message.startsWith(join(data, 'config.yaml')), message)
    assert.match(message, reason)
    assert.not.match(message, '\n')
  }
  const data = folder()
  mkdirSync(join(data, 'config.yaml'))
  assert.match((await refusalOf(loadConfig(data, {}, {}), 'config')).message, 'cannot be read')
  assert.is((await loadConfig(folder(''), {}, {})).mdns, true, 'an empty file says nothing')
})

test('a host and a port are read as people write them', () => {
  assert.equal(parseHostPort('127.0.0.1:80'), { host: '127.0.0.1', port: 80 })
  assert.equal(parseHostPort('[::]:0'), { host: '::', port: 0 })
  for (const text of ['', ':80', 'host', 'host:', 'host:x', 'host:-1', 'host:123456', '[::1]', 'a:b:80'])
    assert.is(parseHostPort(text), undefined, text)
})

test.run()
