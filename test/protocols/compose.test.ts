// What a manifest takes from elsewhere: variables, env files, other files and services; and in what order its services start.
import fc from 'fast-check'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { readEnv } from '../../protocols/compose-env.js'
import { interpolate } from '../../protocols/compose-interpolation.js'
import { ManifestError } from '../../protocols/compose-remarks.js'
import { MeshError } from '../../protocols/error.js'
import { type Circumstances, parseManifest } from '../../protocols/manifest.js'
import { refusalOf } from './support.js'

/** Doubled braces stand for `${` and `}`. */
const template = (text: string) => text.replaceAll('{{', '\x24{').replaceAll('}}', '}')

const VALUES: Record<string, string> = { SET: 'value', EMPTY: '', OTHER: 'other' }
const lookup = (name: string) => VALUES[name]

test('a variable stands for its value, or for what its operator says', () => {
  for (const [text, is] of [
    ['$SET-{{SET}}.$SETX', 'value-value.'],
    ['{{SET:-a}}{{EMPTY:-b}}{{NONE:-c}}', 'valuebc'],
    ['{{SET-a}}{{EMPTY-b}}{{NONE-c}}', 'valuec'],
    ['{{SET:+a}}{{EMPTY:+b}}{{NONE:+c}}', 'a'],
    ['{{SET+a}}{{EMPTY+b}}{{NONE+c}}', 'ab'],
    ['{{SET:?a}}{{SET?a}}{{EMPTY?b}}', 'valuevalue'],
    ['{{NONE:-{{EMPTY:-{{OTHER}}!}}}}', 'other!'],
    ['{{NONE:-a-b:?c}} {{NONE:-{"k": 1}}', 'a-b:?c {"k": 1'],
    ['$$SET \x24{{SET}} $$$SET', '$SET {{SET}} $value'],
    ['{{SET:-{{NONE?never asked for}}}}', 'value'],
  ] as const)
    assert.is(interpolate(template(text), lookup), template(is), text)
  for (const [text, says] of [
    ['{{NONE?}}', 'variable NONE needs a value'],
    ['{{EMPTY:?set it to $OTHER}}', 'variable EMPTY needs a value: set it to other'],
    ['{{SET', 'is never closed'],
    ['{{NONE:-{{SET}}', 'is never closed'],
    ['{{SET/x}}', 'is never closed, or holds'],
    ['$', 'a $ begins a variable'],
    ['$1', 'a $ begins a variable'],
    ['{{A:-'.repeat(20), 'more than 16 deep'],
  ] as const)
    assert.match(refusalOf(() => interpolate(template(text), lookup)).message, says)
  const unset: string[] = []
  interpolate(template('$A {{B}} {{C-}} {{SET+$D}} {{SET-$E}}'), lookup, (name) => unset.push(name))
  assert.equal(unset, ['A', 'B', 'D'])
  assert.match(
    refusalOf(() => interpolate('$A'.repeat(100), () => 'x'.repeat(1000))).message,
    'comes to more than 65536 characters',
  )
})

test('variables within each other come to what a reader of them would say', () => {
  type Term = { text: string; is: string | Error }
  const bare = fc.string({ unit: fc.constantFrom(...'ab :-+?{./é😀') }).map((text): Term => ({ text, is: text }))
  const dollar = fc.constant<Term>({ text: '$$', is: '$' })
  const { term } = fc.letrec<{ term: Term }>((tie) => ({
    term: fc.oneof(
      { maxDepth: 4 },
      bare,
      dollar,
      fc
        .tuple(fc.constantFrom('SET', 'EMPTY', 'NONE'), fc.constantFrom('-', ':-', '+', ':+', '?', ':?'), tie('term'))
        .map(([name, operator, other]): Term => {
          const value = VALUES[name]
          const isThere = operator[0] === ':' ? (value ?? '') !== '' : value !== undefined
          const text = `\x24{${name}${operator}${other.text}}`
          if (operator.endsWith('+')) return { text, is: isThere ? other.is : '' }
          if (isThere) return { text, is: value! }
          return { text, is: operator.endsWith('?') ? new Error() : other.is }
        }),
      fc.tuple(tie('term'), tie('term')).map(
        ([a, b]): Term => ({
          text: a.text + b.text,
          is: a.is instanceof Error ? a.is : b.is instanceof Error ? b.is : a.is + b.is,
        }),
      ),
    ),
  }))
  fc.assert(
    fc.property(term, ({ text, is }) => {
      if (is instanceof Error) assert.throws(() => interpolate(text, lookup))
      else assert.is(interpolate(text, lookup), is)
    }),
    { numRuns: 500 },
  )
})

test('whatever the text, interpolation gives a text or its own error', () => {
  const soup = fc.array(fc.constantFrom('$', '{', '}', ':', '-', '?', '+', 'A', ' ', '$$', '\x24{A:-'), {
    maxLength: 40,
  })
  fc.assert(
    fc.property(
      soup.map((parts) => parts.join('')),
      (text) => {
        try {
          assert.type(
            interpolate(text, () => 'x'),
            'string',
          )
        } catch (error) {
          assert.instance(error, MeshError)
        }
      },
    ),
  )
})

test('an env file is read as Compose reads it', () => {
  const text = [
    '\ufeff# comment',
    'A=1 # inline',
    'export B = two words ',
    "C='sin$A gle\\'s' # after",
    'D="dou\\nble $A \\$A"',
    'E=a#b',
    'F: yaml',
    'G=',
    'H="over',
    'lines"',
    'I',
    'J=$A{{NONE:-x}}',
    'K',
  ].join('\r\n')
  const { lines, problems } = readEnv(template(text), (name) => (name === 'I' ? 'outside' : undefined))
  assert.equal(problems, [])
  assert.equal(Object.fromEntries(lines.map(({ name, value }) => [name, value])), {
    ...{ A: '1', B: 'two words', C: "sin$A gle's", D: 'dou\nble 1 $A', E: 'a#b', F: 'yaml', G: '', H: 'over\nlines' },
    ...{ I: 'outside', J: '1x', K: undefined },
  })
  assert.equal(readEnv('A="$B" # x\nB= y ', undefined, 'raw').lines, [
    { line: 1, name: 'A', value: '"$B" # x' },
    { line: 2, name: 'B', value: ' y ' },
  ])
  assert.equal(
    readEnv('A B=1\n=x\nA="x\nB=1').problems.map(({ line, message }) => `${line}: ${message}`),
    ['1: is not NAME=VALUE', '2: is not NAME=VALUE', '3: A has a " that is never closed'],
  )
})

test('an env file takes time in proportion to its length, whatever it says', () => {
  const many = (text: string) => text.repeat((256 * 1024) / text.length)
  for (const text of [
    `A="${many('\n')}`,
    `A='${many("\\'\n")}`,
    `A=b${many(' ')}c`,
    `A=\${B:-${many('$$')}`,
    many('A="\n"\n'),
    many('.\n'),
  ]) {
    const { user } = process.cpuUsage()
    readEnv(text)
    const ms = (process.cpuUsage().user - user) / 1000
    assert.ok(ms < 2000, `${ms} ms for ${JSON.stringify(text.slice(0, 12))}`)
  }
})

// --- Manifests ----------------------------------------------------------------------------------------------------------

const parse = (text: string, more: Circumstances & { files?: Record<string, string> } = {}) =>
  parseManifest(text, 'compose.yaml', {
    variables: lookup,
    readFile: (path) => more.files?.[path],
    ...more,
  })
const problems = (...of: Parameters<typeof parse>): string => {
  const error = refusalOf(() => parse(...of))
  assert.instance(error, ManifestError)
  return error.message
}
const notes = (manifest: ReturnType<typeof parse>) =>
  manifest.notes.map(({ line, column, path, message }) => `${line}:${column} ${path}: ${message}`)

test('values of every kind may be variables, and one without a value is told with its place', () => {
  const text = template(`name: {{NAME:-web}}
services:
  main:
    image: x:{{TAG}}y
    read_only: {{RO:-true}}
    ports: ["{{PORT:-8080}}:80"]
    environment: {A: $SET, SET: , NONE: , "$SET": b}
    deploy: {replicas: "{{N:-2}}"}
`)
  const error = problems(text)
  assert.match(error, /^compose.yaml:7:\d+: services.main.environment.\$SET: "\$SET" is not the name of a variable/)
  const manifest = parse(text.replace(', "$SET": b', ''))
  assert.equal([manifest.name, manifest.replicas], ['web', 2])
  assert.equal(manifest.services[0]!.environment, { A: 'value', SET: 'value' })
  assert.equal(manifest.services[0]!.ports, [{ container: 80, host: 8080, protocol: 'tcp' }])
  assert.equal(notes(manifest), [
    '4:5 services.main.image: variable TAG is not set, and stands for nothing',
    '7:35 services.main.environment.NONE: NONE has no value here, and is left out',
  ])
  assert.match(problems('services: {web: {image: x, read_only: "yes"}}'), 'must be true or false, not text')
})

test('the variables of a manifest cannot stand for more than a bound', () => {
  const text = `services: {web: {image: x, command: [${Array.from({ length: 200 }, () => '$A').join(', ')}]}}`
  assert.match(problems(text, { variables: () => 'x'.repeat(60_000) }), 'come to more than 1048576 characters')
})

test('env files count in their order, and environment before them', () => {
  const files = { 'a.env': 'A=1\nB=1\nC=1\nD=$SET', 'sub/b.env': 'B=2\nC="2"', 'raw.env': 'R="x"' }
  const main = (env: string) => `services: {main: {image: x, environment: {C: 3}, env_file: ${env}}}`
  const { services } = parse(
    main('[a.env, ./sub/b.env, {path: no.env, required: false}, {path: raw.env, format: raw}]'),
    { files },
  )
  assert.equal(services[0]!.environment, { A: '1', B: '2', C: '3', D: 'value', R: '"x"' })
  assert.match(problems(main('no.env'), { files }), 'services.main.env_file: there is no file no.env in the folder')
  for (const path of ['../a.env', '/etc/passwd', 'a/../../b', '~/x'])
    assert.match(problems(main(path), { files }), 'is not a path inside the folder of the manifest')
  assert.match(
    problems(main('bad.env'), { files: { 'bad.env': 'A=1\nB C' } }),
    'env_file: bad.env:2: is not NAME=VALUE',
  )
})

test('a service of a profile that is off is left out, with what is wrong with it', () => {
  const text = `services:
  main: {image: x, depends_on: {debug: {condition: service_started, required: false}}}
  debug: {image: y, profiles: [debug, $SET], privileged: true}
`
  const manifest = parse(text)
  assert.equal(
    manifest.services.map(({ name }) => name),
    ['main'],
  )
  assert.match(notes(manifest).join(), 'services.debug: left out: its profiles (debug, value) are off')
  assert.match(problems(text, { profiles: ['value'] }), /^compose.yaml:3:\d+: services.debug.privileged: .*$/)
  assert.match(problems(text.replace(', required: false', '')), 'service debug is left out: its profiles are off')
})

test('a service over what it extends: maps by key, lists one after the other, words its own', () => {
  const files = {
    'sub/base.yaml': `services:
  base:
    extends: root
    build: {context: app, args: {A: 1}}
    env_file: base.env
    environment: {A: 1, B: 1}
    command: [base]
    ports: ["80"]
    volumes: [data:/data, data:/other]
    healthcheck: {test: x, interval: 5s}
    configs: [{source: c, target: /c}]
  root: {image: root, user: "7", ulimits: {nofile: 9}}
`,
    'sub/base.env': 'E=1',
  }
  const text = `services:
  main:
    extends: {service: base, file: sub/base.yaml}
    build: {args: {B: 2}}
    environment: [B=2]
    command: [own]
    ports: ["443"]
    volumes: [data:/data:ro]
    healthcheck: {interval: 9s}
    configs: [{source: d, target: /c}]
volumes: {data: }
configs: {c: {content: c}, d: {content: d}}
`
  const { services, configs } = parse(text, { files })
  const main = services[0]!
  assert.equal(main.source, { build: { context: 'sub/app', dockerfile: 'Dockerfile', args: { A: '1', B: '2' } } })
  assert.equal(main.environment, { E: '1', A: '1', B: '2' })
  assert.equal([main.command, main.user, main.healthcheck!.interval], [['own'], '7', 9000])
  assert.equal(
    main.ports.map(({ container }) => container),
    [80, 443],
  )
  assert.equal(main.mounts, [
    { volume: 'data', path: '/other', readOnly: false },
    { volume: 'data', path: '/data', readOnly: true },
  ])
  assert.equal(main.ulimits, [{ name: 'nofile', soft: 9, hard: 9 }])
  assert.equal(main.configs, [{ config: 'd', path: '/c', mode: 0o444 }])
  assert.equal(configs, [{ name: 'd', content: 'd' }])
})

test('extending one that extends nothing of the same key changes nothing, and twice the same is once', () => {
  const keys = fc.uniqueArray(fc.stringMatching(/^[A-Z]{1,3}$/), { maxLength: 5 })
  const environment = (names: string[], is: string) => `{${names.map((name) => `${name}: ${is}`)}}`
  fc.assert(
    fc.property(keys, keys, (a, b) => {
      const { services } = parse(`services:
  a: {image: x, environment: ${environment(a, 'a')}}
  b: {extends: a, environment: ${environment(b, 'b')}}
  c: {extends: b}
`)
      const [, second, third] = services
      assert.equal(
        second!.environment,
        Object.fromEntries([...a.map((name) => [name, 'a']), ...b.map((name) => [name, 'b'])]),
      )
      assert.equal({ ...third, name: 'b' }, second)
    }),
    { numRuns: 100 },
  )
})

test('what is wrong with what is extended is told where it stands, and circles are refused by name', () => {
  const files = { 'base.yaml': 'services:\n  base:\n    image: x\n    pid: host\n', 'broken.yaml': 'a: [' }
  assert.match(
    problems('services: {a: {extends: {service: base, file: base.yaml}, user: 1}}', { files }),
    /^base.yaml:4:5: services.base.pid: .*\ncompose.yaml:1:\d+: services.a.user: must be text/,
  )
  assert.match(
    problems('services: {a: {extends: b}, b: {extends: c}, c: {extends: b}}'),
    'services extend each other: b, c, b',
  )
  assert.match(problems('services: {a: {extends: no}}'), 'there is no service no')
  assert.match(
    problems('services: {a: {extends: {service: x, file: base.yaml}}}', { files }),
    'no service x in base.yaml',
  )
  assert.match(problems('services: {a: {extends: {service: x, file: ../x.yaml}}}'), 'is not a path inside the folder')
  assert.match(problems('services: {a: {extends: {service: x, file: broken.yaml}}}', { files }), /^broken.yaml:1:\d+: /)
})

test('an included manifest is part of the chute, with paths of its own folder, and each name once', () => {
  const files = {
    'sub/db.yaml': 'services: {db: {build: ., environment: {A: $X}, volumes: ["data:/data"]}}\nvolumes: {data: }\n',
    'sub/x.env': 'X=1',
    'loop.yaml': 'include: [compose.yaml]\nservices: {loop: {image: x}}',
    'more.yaml': 'services: {main: {image: x}}',
  }
  const main = (include: string) => `include: ${include}\nservices: {main: {image: x}}\n`
  const { services, volumes } = parse(main('[{path: sub/db.yaml, env_file: sub/x.env}]'), { files })
  assert.equal(services[1]!.source, { build: { context: 'sub', dockerfile: 'Dockerfile', args: {} } })
  assert.equal([services[1]!.environment, volumes], [{ A: '1' }, [{ name: 'data', ephemeral: false }]])
  assert.match(
    problems(main('[loop.yaml]'), { files }),
    'files include each other: compose.yaml, loop.yaml, compose.yaml',
  )
  assert.match(
    problems(main('[more.yaml]'), { files }),
    /^more.yaml:1:\d+: services.main: main is there twice, first in compose.yaml:2/,
  )
  assert.match(problems(main('[{path: [a.yaml, b.yaml]}]'), { files }), 'files are not laid over each other')
})

test('services wait for each other as they say, and a circle is refused by name', () => {
  const { services } = parse(`services:
  web: {image: x, depends_on: {db: {condition: service_healthy, restart: true}, job: {condition: service_completed_successfully}}}
  db: {image: x, healthcheck: {test: x}}
  job: {image: x, depends_on: [db], restart: "no"}
`)
  assert.equal(services[0]!.dependsOn, [
    { service: 'db', condition: 'service_healthy', restart: true },
    { service: 'job', condition: 'service_completed_successfully' },
  ])
  assert.equal(services[2]!.dependsOn, [{ service: 'db', condition: 'service_started' }])
  assert.equal(
    services.map(({ mayEnd }) => mayEnd),
    [undefined, undefined, true],
  )
  const circle =
    'services:\n  a: {image: x, depends_on: [b]}\n  b: {image: x, depends_on: [c]}\n  c: {image: x, depends_on: [b]}\n'
  assert.match(
    problems(circle),
    /^compose.yaml:4:\d+: services.c.depends_on\[0\]: services wait for each other: b → c → b$/,
  )
  assert.match(problems('services: {a: {image: x, depends_on: [no]}}'), 'there is no service no')
  const unhealthy =
    '{a: {image: x, depends_on: {b: {condition: service_healthy}}}, b: {image: x, healthcheck: {disable: true}}}'
  assert.match(problems(`services: ${unhealthy}`), 'service b has no health check')
})

test('configs are text from the manifest, a file or a variable, and more than a record holds is refused with its size', () => {
  const text = (configs: string) =>
    `services: {main: {image: x, configs: [a, {source: b, target: /etc/b, uid: "5", gid: 6, mode: 0400}]}}\nconfigs: ${configs}`
  const { services, configs } = parse(text('{a: {content: "is $SET"}, b: {file: b.txt}, c: {environment: SET}}'), {
    files: { 'b.txt': 'of $SET' },
  })
  assert.equal(configs, [
    { name: 'a', content: 'is value' },
    { name: 'b', content: 'of $SET' },
  ])
  assert.equal(services[0]!.configs, [
    { config: 'a', path: '/a', mode: 0o444 },
    { config: 'b', path: '/etc/b', mode: 0o400, uid: 5, gid: 6 },
  ])
  assert.match(problems(text('{a: {content: x}}')), 'config b is not declared: add it under configs')
  assert.match(
    problems(text('{a: {content: x, environment: SET}, b: {}}')),
    /configs.a: needs one of[\s\S]*|configs.b: needs/,
  )
  assert.match(problems(text('{a: {environment: NONE}, b: {content: x}}')), 'variable NONE has no value here')
  const long = problems(text('{a: {file: a}, b: {content: x}}'), { files: { a: 'x'.repeat(40_000) } })
  assert.match(long, /configs.a: has 40003 bytes: the record of this chute has room for 3\d{4} bytes of configs/)
})

test('services that Compose keeps apart are not put into one network', () => {
  const text = (networks: string[]) =>
    `services:\n${networks.map((of, i) => `  s${i}: {image: x${of && `, networks: ${of}`}}`).join('\n')}\nnetworks: {a: , b: {driver: bridge}}`
  assert.is(parse(text(['[a]', '{a: , b: }', '[a, b]'])).services.length, 3)
  assert.match(problems(text(['[a]', '[b]'])), 'services.s1.networks: is to be kept apart from s0')
  assert.match(problems(text(['[a]', ''])), 'services.s1: is to be kept apart from s0')
  assert.match(problems(text(['[c]'])), 'network c is not declared')
})

test('short limits are those of deploy, and must not contradict them', () => {
  const text = (more: string) => `services: {main: {image: x, mem_limit: 64m, cpus: 0.2, pids_limit: 9${more}}}`
  assert.equal(parse(text('')).services[0]!.limits, { cpu: 200, memory: 64 * 1024 ** 2, pids: 9 })
  assert.match(
    problems(text(', deploy: {resources: {limits: {cpus: 1}}}')),
    'cpus: contradicts services.main.deploy.resources.limits.cpus',
  )
})

test.run()
