// What a compose.yaml may say, and that everything else is refused by its name and line.
import fc from 'fast-check'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { ManifestError } from '../../protocols/compose-remarks.js'
import { cpus, duration, shellWords, size } from '../../protocols/compose-values.js'
import { chuteSpec, DEFAULT_LIMITS, DEFAULT_STOP_GRACE, type ImageSpec } from '../../protocols/deployment.js'
import { MeshError } from '../../protocols/error.js'
import { type Made, type Manifest, parseManifest, toSpec } from '../../protocols/manifest.js'

const FILE = 'compose.yaml'
const parse = (text: string): Manifest => parseManifest(text, FILE)

function refusal(text: string): ManifestError {
  try {
    parse(text)
  } catch (error) {
    assert.instance(error, ManifestError)
    return error as ManifestError
  }
  throw new Error(`accepted: ${text}`)
}

/** Its lines, without columns. */
const lines = (text: string): string[] =>
  refusal(text)
    .message.split('\n')
    .map((line) => line.replace(/^([^:]+:\d+):\d+:/, '$1:'))

/** A service `web` with these lines of YAML, from line 4. */
const web = (...body: string[]): string =>
  ['services:', '  web:', '    image: nginx', ...body.map((line) => `    ${line}`)].join('\n')

/** What is read of it. */
const service = (...body: string[]) => parse(`${web(...body)}\nvolumes: {data: }`).services[0]!

/** The one refusal of it, without its file and line. */
function refused(...body: string[]): string {
  const { problems, message } = refusal(`${web(...body)}\nvolumes: {data: }`)
  assert.is(problems.length, 1, message)
  return `${problems[0]!.path}: ${problems[0]!.message}`
}

const image: ImageSpec = { config: new Uint8Array(32).fill(7), platform: 'linux/arm64' }

/** Keys that are passed over somewhere. */
const IGNORED = new Set([
  ...[
    'labels',
    'name',
    'tags',
    'volume',
    'reservations',
    'preferences',
    'attachable',
    'options',
    'null',
    'true',
    'false',
  ],
])

/** Every kind of thing that a manifest says, at least once. */
const FULL = `name: garden
version: "3.8"
services:
  web:
    image: registry.example.org:5000/web:1.2
    build:
      context: ./web
      dockerfile: docker/Dockerfile
      args:
        VERSION: 1.10
    command: serve --port 80
    entrypoint: ["/bin/tini", "--"]
    environment:
      LEVEL: info
      RETRIES: 3
      QUIET: true
      PRICE: 5$$
    ports:
      - 8080:80
      - target: 53
        published: "5353"
        protocol: udp
        mode: host
    volumes:
      - data:/data
      - type: volume
        source: cache
        target: /var/cache/
        read_only: true
    tmpfs:
      - /run
      - /scratch:size=8m
    healthcheck:
      test: wget -q localhost || exit 1
      interval: 1m30s
      timeout: 5s
      retries: 2
      start_period: 500ms
    user: "1000:1000"
    working_dir: /srv
    stop_grace_period: 30s
    deploy:
      replicas: 2
      placement:
        constraints:
          - node.labels.zone == roof
      resources:
        limits:
          cpus: "0.25"
          memory: 64m
          pids: 50
  db:
    image: redis:7
    healthcheck:
      disable: true
volumes:
  data:
  cache:
    x-dropmesh:
      ephemeral: true
x-dropmesh:
  everywhere: false
  exclusive: true
  rebalance: always
`

test('a manifest with every accepted key is read to the last value', () => {
  assert.equal(parse(FULL), {
    name: 'garden',
    services: [
      {
        name: 'web',
        source: { build: { context: 'web', dockerfile: 'docker/Dockerfile', args: { VERSION: '1.10' } } },
        command: ['serve', '--port', '80'],
        entrypoint: ['/bin/tini', '--'],
        environment: { LEVEL: 'info', RETRIES: '3', QUIET: 'true', PRICE: '5$' },
        ports: [
          { container: 80, host: 8080, protocol: 'tcp' },
          { container: 53, host: 5353, protocol: 'udp' },
        ],
        mounts: [
          { volume: 'data', path: '/data', readOnly: false },
          { volume: 'cache', path: '/var/cache', readOnly: true },
        ],
        tmpfs: [
          { path: '/run', size: 64 * 1024 ** 2 },
          { path: '/scratch', size: 8 * 1024 ** 2 },
        ],
        healthcheck: {
          test: ['CMD-SHELL', 'wget -q localhost || exit 1'],
          interval: 90_000,
          timeout: 5000,
          retries: 2,
          startPeriod: 500,
        },
        user: '1000:1000',
        workingDir: '/srv',
        stopGrace: 30_000,
        limits: { cpu: 250, memory: 64 * 1024 ** 2, pids: 50 },
      },
      {
        name: 'db',
        source: { image: 'redis:7' },
        environment: {},
        ports: [],
        mounts: [],
        tmpfs: [],
        healthcheck: { test: ['NONE'], interval: 30_000, timeout: 30_000, startPeriod: 0, retries: 3 },
        stopGrace: DEFAULT_STOP_GRACE,
        limits: { ...DEFAULT_LIMITS },
      },
    ],
    volumes: [
      { name: 'data', ephemeral: false },
      { name: 'cache', ephemeral: true },
    ],
    replicas: 2,
    constraints: [{ label: 'zone', value: 'roof' }],
    exclusive: true,
    rebalance: 'always',
    notes: [
      {
        ...{ file: FILE, line: 2, column: 1, path: 'version' },
        message: 'ignored: it is obsolete, and says nothing',
      },
    ],
  })
})

test('a manifest of one image gets the defaults, and no key that was not given', () => {
  const { name, ...manifest } = parse('services: {web: {image: nginx}}')
  assert.is(name, undefined)
  assert.equal(Object.keys(manifest).sort(), ['constraints', 'exclusive', 'notes', 'replicas', 'services', 'volumes'])
  assert.is(manifest.replicas, 1)
  assert.equal(Object.keys(manifest.services[0]!).sort(), [
    ...['environment', 'limits', 'mounts', 'name', 'ports', 'source', 'stopGrace', 'tmpfs'],
  ])
})

test('images make a manifest the spec of a record', () => {
  const manifest = parse(FULL)
  const spec = toSpec(manifest, new Map([...'web db'.split(' ')].map((name) => [name, { images: [image] }])))
  assert.equal(chuteSpec.parse(spec), spec)
  assert.equal(spec.services[1]!.images, [image])
  assert.not('source' in spec.services[0]! || 'name' in spec)
})

test('a service without an image, and an image that is none, are refused with the code of manifests', () => {
  for (const images of [[], [['web', { images: [{ ...image, platform: '?' }] }]]] as [string, Made][][]) {
    try {
      toSpec(parse(web()), new Map(images))
      assert.unreachable()
    } catch (error) {
      assert.instance(error, MeshError)
      assert.is((error as MeshError).code, 'manifest')
      assert.match((error as MeshError).message, /service web has no image|services\.0\.images\.0\.platform/)
    }
  }
})

test('all problems are reported at once, by file, line and name, in the order of lines', () => {
  const text = `${web('privileged: true', 'ports: 80', 'user: 1000', 'imgae: x')}\nmodels: {}\nname: Not A Name\n`
  assert.equal(lines(text), [
    'compose.yaml:4: services.web.privileged: not supported in a chute: a chute has no access to its host',
    'compose.yaml:5: services.web.ports: must be a list, not a number',
    'compose.yaml:6: services.web.user: must be text, not a number (put it in quotes)',
    'compose.yaml:7: services.web.imgae: not supported in a chute',
    'compose.yaml:8: models: not supported in a chute: an AP runs containers alone',
    'compose.yaml:9: name: "Not A Name" is not a name: a name is 1 to 63 of a-z, 0-9 and "-", with a letter or digit at both ends',
  ])
  const error = refusal(text)
  assert.is(error.code, 'manifest')
  assert.equal(error.problems[3], {
    file: FILE,
    line: 7,
    column: 5,
    path: 'services.web.imgae',
    message: 'not supported in a chute',
  })
  assert.match(error.message, /^compose.yaml:4:5: services.web.privileged: /)
})

test('every way out of a container is refused by name', () => {
  const ways = ['network_mode', 'pid', 'ipc', 'uts', 'userns_mode', 'cgroup', 'cgroup_parent', 'device_cgroup_rules']
  ways.push('gpus', 'volumes_from', 'use_api_socket', 'runtime')
  for (const key of ways) assert.match(refused(`${key}: host`), `services.web.${key}: not supported in a chute`)
  assert.match(refused('privileged: true'), 'services.web.privileged: not supported in a chute')
  assert.match(refused('volumes: [/var/run/docker.sock:/s]'), 'is a path on the host')
  assert.match(refused('volumes: [../up:/s]'), 'is a path on the host')
  assert.match(refused('volumes: ["~/.ssh:/s"]'), 'is a path on the host')
  assert.match(refused(String.raw`volumes: ['c:\x:/s']`), 'is a path on the host')
  assert.match(refused('volumes: [{type: bind, source: data, target: /s}]'), 'type: "bind" is not supported')
  assert.match(refused('volumes: [{type: volume, source: data, target: "/s:rw"}]'), 'holds no ":"')
  assert.match(refused('build: {context: ., privileged: true}'), 'build.privileged: not supported')
})

test('an unknown key is refused by its name and line, wherever it stands', () => {
  const rows = FULL.trimEnd().split('\n')
  // A key of each map whose keys are fixed.
  const keys = [
    'name: ',
    '    image: reg',
    '      context: ',
    '        published: ',
    '        source: ',
    '      timeout: ',
  ]
  keys.push('      placement:', '        constraints:', '        limits:', '          memory: ', '      disable: ')
  keys.push('    x-dropmesh:', '      ephemeral: ', '  everywhere: ')
  const maps = keys.map((start) => {
    const line = rows.findIndex((row) => row.startsWith(start))
    assert.ok(line >= 0, start)
    return { line, indent: start.search(/\w/) }
  })
  // Some of these stand where they are known.
  const known = new Set([...FULL.matchAll(/([\w-]+):/g)].map((match) => match[1]!))
  const key = fc
    .stringMatching(/^[a-z_][a-z_-]{0,15}$/)
    .filter((text) => !known.has(text) && !IGNORED.has(text) && !text.startsWith('x-'))
  const hostile = fc.constantFrom(
    'toString',
    '__proto__',
    'constructor',
    'hasOwnProperty',
    'x-dropmehs',
    'volumes_from',
    'Image',
    'image ',
    'a.b',
  )
  const value = fc.constantFrom('1', '{}', '[a, b]', '"x"', '', '$HOME', '&a [*a]', 'true')
  fc.assert(
    fc.property(fc.constantFrom(...maps), fc.oneof(key, hostile), value, ({ line, indent }, name, is) => {
      const row = `${' '.repeat(indent)}"${name}": ${is}`
      const { problems, message } = refusal([...rows.slice(0, line), row, ...rows.slice(line)].join('\n'))
      assert.is(problems.length, 1, message)
      assert.is(problems[0]!.line, line + 1)
      assert.ok(`.${problems[0]!.path}`.endsWith(`.${name}`), message)
      assert.match(problems[0]!.message, 'not supported in a chute')
    }),
    { numRuns: 500 },
  )
})

test('no text makes it throw anything but its own error', () => {
  const tokens = fc.constantFrom(
    ...'services: |web:|image:|- |? |: |\n|\n  |\n    |{|}|[|]|,|&a |*a|<<: |"|\'|!!binary |!x |%YAML 1.1\n|---\n|$X|#|1e999|null|~|ports:|deploy:|volumes:|command:|environment:|\0|\ud800|__proto__: |x'.split(
      '|',
    ),
  )
  const soup = fc.array(tokens, { maxLength: 60 }).map((parts) => parts.join(''))
  const mutant = fc
    .array(fc.tuple(fc.nat(FULL.length), fc.nat(20), fc.oneof(tokens, fc.string({ unit: 'binary', maxLength: 4 }))), {
      minLength: 1,
      maxLength: 4,
    })
    .map((edits) => edits.reduce((text, [at, cut, put]) => text.slice(0, at) + put + text.slice(at + cut), FULL))
  fc.assert(
    fc.property(fc.oneof(fc.string({ unit: 'binary' }), soup, mutant), (text) => {
      let manifest: Manifest
      const before = performance.now()
      try {
        manifest = parse(text)
      } catch (error) {
        assert.instance(error, ManifestError, String(error))
        const { problems, message } = error as ManifestError
        assert.ok(problems.length > 0 && problems.every(({ line }) => line >= 1 && line <= text.split('\n').length))
        assert.is(message.split('\n').length, Math.min(problems.length, 101))
        assert.not.match(message.replaceAll('\n', ''), /\p{C}/u)
        return
      } finally {
        assert.ok(performance.now() - before < 5000)
      }
      const spec = toSpec(manifest, new Map(manifest.services.map(({ name }) => [name, { images: [image] }])))
      assert.equal(chuteSpec.parse(spec), spec)
    }),
    { numRuns: 1500 },
  )
})

test('the largest and most twisted texts are refused in bounded time', () => {
  const full = (part: string) => part.repeat(Math.floor((256 * 1024) / part.length))
  const bomb = [
    'a: &a0 {image: x}',
    ...Array.from({ length: 20 }, (_, i) => `b${i}: &a${i + 1} {<<: [*a${i}, *a${i}, *a${i}]}`),
  ]
  const many = (row: (i: number) => string) => Array.from({ length: 900 }, (_, i) => row(i))
  const wide = `${web('environment:', ...many((i) => `  A${i}: x`))}\n${many((i) => `  s${i}: *w`).join('\n')}`.replace(
    'web:',
    'web: &w',
  )
  for (const [text, says] of [
    [full('['), /nested more than 64 deep/],
    [full('- '), /nested more than 64 deep/],
    [full('{a: '), /nested more than 64 deep/],
    [full('a: [{[{\n'), /brackets are not closed, as in more than 16 lines before/],
    [full('[]'), /Unexpected flow-seq-start/],
    [`${'['.repeat(1e5)}${']'.repeat(1e5)}`, /nested more than 64 deep/],
    [Array.from({ length: 30_000 }, (_, i) => `k${i}:`).join('\n'), /more than 20000 values/],
    [`services:\n${full(' *a : 1\n').slice(0, -20)}`, /Implicit map keys need/],
    [`${bomb.join('\n')}\nservices:\n  web: *a20\n`, /more than 20000 values/],
    [wide, /more than 20000 values/],
    ['services: &s {web: {image: x, <<: [*s, *s, *s]}}', /\.<<: merged too deeply|more than 20000 values|web/],
    ['services: {web: &w {image: x, <<: [*w, *w, *w]}}', /merged too deeply|more than 20000 values/],
    ['a'.repeat(256 * 1024 + 1), /longer than 256 KiB/],
    ['é'.repeat(128 * 1024 + 1), /longer than 256 KiB/],
  ] as [string, RegExp][]) {
    const before = performance.now()
    assert.match(refusal(text).message.slice(0, 20_000), says, text.slice(0, 40))
    assert.ok(performance.now() - before < 20_000)
  }
})

test('a text that is no single document is refused with what is wrong with it', () => {
  for (const text of ['', '\n\n', '# nothing\n', '---\n', 'null', '~'])
    assert.match(lines(text)[0]!, /^compose.yaml:1: is empty/)
  assert.equal(lines('a: 1\n---\nb: 2\n'), ['compose.yaml:2: a second document begins here; a chute is one'])
  assert.equal(lines('- a'), ['compose.yaml:1: must be a map, not a list'])
  assert.equal(lines('services: {}'), ['compose.yaml:1: has no services'])
  assert.equal(lines('name: x\nservices: []'), ['compose.yaml:2: services: must be a map, not a list'])
  assert.match(lines('services:\n  web:\n\timage: x\n')[0]!, /^compose.yaml:3: /)
  assert.match(lines('services: !reset null')[0]!, 'compose.yaml:1: Unresolved tag: !reset')
  assert.match(lines('services:\n  a: *b')[0]!, 'compose.yaml:2: there is no anchor &b before this alias')
})

test('a key given twice is refused with the line of the first', () => {
  assert.equal(lines(web('image: b')), ['compose.yaml:4: services.web.image: given twice, first on line 3'])
})

test('a key that is no text is refused, not stumbled over', () => {
  for (const key of ['1', 'null', 'true', '? [a]\n    ', '? {a: b}\n    ', '']) {
    assert.match(lines(web(`${key}: x`)).join(), 'a key must be text: put it in quotes')
  }
})

test('anchors, aliases and merges say what they stand for, and errors say where it is written', () => {
  const { services } = parse(
    ['services:', '  a: &a', '    image: x', '    user: "1"', '    environment: &e {A: "1", B: "2"}', '  b:']
      .concat(['    <<: *a', '    image: y', '    environment: {<<: *e, B: "3"}', '  c:', '    <<: [{user: "2"}, *a]'])
      .join('\n'),
  )
  assert.equal(
    services.map(({ source, user }) => [source, user]),
    [
      [{ image: 'x' }, '1'],
      [{ image: 'y' }, '1'],
      [{ image: 'x' }, '2'],
    ],
  )
  assert.equal(services[1]!.environment, { A: '1', B: '3' })
  assert.equal(lines('services:\n  a: &a\n    image: x\n    pid: host\n  b:\n    <<: *a\n    <<: 5\n'), [
    'compose.yaml:4: services.a.pid: not supported in a chute: a chute has no access to its host',
    'compose.yaml:4: services.b.pid: not supported in a chute: a chute has no access to its host',
    'compose.yaml:7: services.b.<<: a merge takes a map, or a list of maps',
  ])
})

test('control characters of a stranger never reach the terminal', () => {
  assert.equal(lines('"a\\e[31m\\nb\\u202ec": 1\nservices: {web: {image: x}}'), [
    'compose.yaml:1: a\\u{1b}[31m\\u{a}b\\u{202e}c: not supported in a chute',
  ])
})

test('YAML 1.1 does not come back through a directive: 2222:22 is a port and yes is text', () => {
  const { services } = parse(`%YAML 1.1\n---\n${web('ports: [2222:22]', 'environment: {A: yes}', 'user: no')}`)
  assert.equal(services[0]!.ports, [{ container: 22, host: 2222, protocol: 'tcp' }])
  assert.equal(services[0]!.environment, { A: 'yes' })
  assert.is(services[0]!.user, 'no')
})

test('a dollar sign that begins no variable is refused, and a doubled one is one', () => {
  // biome-ignore lint/suspicious/noTemplateCurlyInString: what a manifest may hold
  for (const value of 'a$,$1,$$$,a $ b,${,${},${X,${X!},${X:-y,${1}'.split(','))
    assert.match(refused(`user: "${value}"`), /services.web.user: (a \$ begins a variable|\$\{X is never closed)/)
  assert.equal(service('command: ["$$HOME", "$$$$", "a$$"]').command, ['$HOME', '$$', 'a$'])
})

test('an environment is a map or a list, of values as they are written', () => {
  const map = service(
    'environment: {A: 1.10, B: 0x1F, C: true, D: "", E: "a=b", F.g-h: 12345678901234567890}',
  ).environment
  assert.equal(map, { A: '1.10', B: '0x1F', C: 'true', D: '', E: 'a=b', 'F.g-h': '12345678901234567890' })
  assert.equal(service('environment: ["A=1.10", "B=", "C=a=b"]').environment, { A: '1.10', B: '', C: 'a=b' })
  assert.match(refused('environment: [A=1, A=2]'), 'environment[1]: A is given twice')
  assert.match(refused('environment: {A: [1]}'), 'environment.A: must be text or a number')
  assert.match(refused('environment: {__proto__: x}'), 'is not the name of a variable')
  assert.match(refused('environment: {"A=B": x}'), 'is not the name of a variable')
  assert.match(refused(`environment: {A: ${'x'.repeat(4097)}}`), 'services.web.environment: A: ')
  assert.match(refused('environment: {A: "\\0"}'), 'holds a NUL')
})

test('ports are read from both syntaxes, and what no AP could keep is refused', () => {
  assert.equal(service('ports: [80, "443", 8080:80, 5353:53/udp, {target: 1, published: 2000}]').ports, [
    { container: 80, protocol: 'tcp' },
    { container: 443, protocol: 'tcp' },
    { container: 80, host: 8080, protocol: 'tcp' },
    { container: 53, host: 5353, protocol: 'udp' },
    { container: 1, protocol: 'tcp', host: 2000 },
  ])
  for (const [port, says] of [
    ['127.0.0.1:8080:80', 'names a host address, but no two APs share one: write 8080:80'],
    ['"[::1]:8080:80"', 'names a host address'],
    ['3000-3005', 'is a range, which is not supported'],
    ['9090-9091:8080-8081', 'is a range, which is not supported'],
    ['80/sctp', '"sctp" is not supported: tcp or udp'],
    ['80/tcp/udp', 'is not a port'],
    ['0', 'is not a port: 1 to 65535'],
    ['65536:80', 'is not a port: 1 to 65535'],
    ['-1', 'is not a port'],
    ['1.5', 'is not a port'],
    ['":80"', 'is not a port'],
    ['{published: 80}', 'needs a target'],
    ['{target: 80, host_ip: 127.0.0.1}', 'host_ip: not supported in a chute: no two APs share an address'],
    ['{target: 80, mode: bridge}', '"bridge" is not supported: host or ingress'],
    ['[80]', 'must be text or a number or a map, not a list'],
  ]) {
    assert.match(refused(`ports: [${port}]`), says!)
  }
})

test('a host port can be published once in a chute, whichever service asks', () => {
  const both = (port: string) => `services:\n  a: {image: x, ports: ["8080:80"]}\n  b: {image: x, ports: ["${port}"]}\n`
  assert.equal(lines(both('8080:8080')), [
    'compose.yaml:3: services.b.ports[0]: port 8080/tcp is published twice, first on line 2',
  ])
  assert.is(parse(both('8080:80/udp')).services.length, 2)
  assert.is(parse(both('80')).services.length, 2)
})

test('only named and declared volumes are mounted, each path once', () => {
  assert.equal(service('volumes: [data:/a, data:/b:ro, data:/c:rw]').mounts, [
    { volume: 'data', path: '/a', readOnly: false },
    { volume: 'data', path: '/b', readOnly: true },
    { volume: 'data', path: '/c', readOnly: false },
  ])
  assert.match(refused('volumes: [/data]'), '"/data" is an anonymous volume')
  assert.match(refused('volumes: [{type: volume, target: /data}]'), 'is an anonymous volume')
  assert.match(refused('volumes: [other:/data]'), 'volume other is not declared: add it under volumes')
  assert.match(refused('volumes: [data:/data:z]'), 'option "z" of a volume is not supported: ro or rw')
  assert.match(refused('volumes: [data:data]'), 'is not an absolute path')
  assert.match(refused('volumes: [data:/]'), 'over the root')
  assert.match(refused('volumes: [data:/a/../..]'), 'holds no')
  assert.match(refused('volumes: [My_Data:/data]'), 'is not a name: a name is')
  assert.match(refused('volumes: [data:/a, data:/a/]'), '/a is mounted twice, first on line 4')
  assert.match(refused('volumes: [data:/a]', 'tmpfs: /a'), '/a is mounted twice')
})

test('volumes are declared bare, or ephemeral, and in no other way', () => {
  const declared = (volume: string) => `${web()}\nvolumes:\n  data: ${volume}\n`
  assert.equal(parse(declared('')).volumes, [{ name: 'data', ephemeral: false }])
  assert.equal(parse(declared('{}')).volumes, [{ name: 'data', ephemeral: false }])
  assert.equal(parse(declared('{x-dropmesh: {ephemeral: true}}')).volumes, [{ name: 'data', ephemeral: true }])
  for (const key of ['driver_opts', 'external', 'size'])
    assert.match(lines(declared(`{${key}: x}`)).join(), `compose.yaml:5: volumes.data.${key}: not supported in a chute`)
  assert.match(lines(declared('{driver: nfs}')).join(), '"nfs" is not supported: local')

  assert.match(lines(declared('{x-dropmesh: {ephemeral: "yes"}}')).join(), 'must be true or false, not text')
})

test('a tmpfs is sized, by default with 64 MiB', () => {
  assert.equal(service('tmpfs: /run').tmpfs, [{ path: '/run', size: 64 * 1024 ** 2 }])
  assert.match(refused('tmpfs: /run:size=1'), 'expected number to be >=4096')
  assert.match(refused('tmpfs: [/run:mode=700]'), 'option "mode=700" of a tmpfs is not supported')
  assert.match(refused('tmpfs: ["/run:size=1m,exec"]'), 'option "size=1m,exec" of a tmpfs is not supported')
  assert.match(refused('tmpfs: run'), 'is not an absolute path')
})

test('a health check has a test in one of Docker’s forms, and Docker’s defaults', () => {
  assert.equal(service('healthcheck: {test: [CMD, a, b]}').healthcheck, {
    test: ['CMD', 'a', 'b'],
    interval: 30_000,
    timeout: 30_000,
    startPeriod: 0,
    retries: 3,
  })
  assert.equal(service('healthcheck: {test: [NONE]}').healthcheck!.test, ['NONE'])
  for (const form of ['[]', '[curl, x]', '[CMD]', '[CMD-SHELL]', '[CMD-SHELL, a, b]', '[NONE, a]']) {
    assert.match(refused(`healthcheck: {test: ${form}}`), 'services.web.healthcheck')
  }
  assert.match(refused('healthcheck: {interval: 5s}'), 'needs a test')
  assert.match(refused('healthcheck: {test: x, interval: 0s}'), 'healthcheck.interval: Too small')
  assert.match(refused('healthcheck: {disable: true, test: x}'), 'disable: true stands alone')
})

test('a command is words or a list; null leaves the image’s own, an empty one clears it', () => {
  assert.equal(service(`command: sh -c 'a && b' "c d"e`).command, ['sh', '-c', 'a && b', 'c de'])
  assert.equal(service('command: [a b, ""]').command, ['a b', ''])
  assert.is(service('command: ').command, undefined)
  assert.equal(service('command: ""').command, [])
  assert.equal(service('entrypoint: []').entrypoint, [])
  assert.match(refused('command: a && b'), 'the command holds "&", but no shell runs it')
  assert.match(refused(`command: it's`), "the command has a ' that is never closed")
  assert.match(refused('command: [sleep, 10]'), 'command[1]: must be text, not a number (put it in quotes)')
  assert.match(refused(`command: ${'x '.repeat(257)}`), 'services.web.command: Too big')
})

test('a build may take its context from a git repository', () => {
  const url = 'https://example.org/x.git#v1:sub'
  assert.equal(service(`build: ${url}`).source, { build: { context: url, dockerfile: 'Dockerfile', args: {} } })
  assert.equal(service(`build: {context: "git@example.org:x", dockerfile: a/b}`).source, {
    build: { context: 'git@example.org:x', dockerfile: 'a/b', args: {} },
  })
  assert.match(refused('build: https://example.org/x.git#v1:../y'), 'is no folder inside the repository')
  assert.match(refused('build: "ext://sh"'), 'is no URL of a git repository')
})

test('a build stays inside the folder of its manifest', () => {
  assert.equal(service('build: ./app/').source, { build: { context: 'app', dockerfile: 'Dockerfile', args: {} } })
  assert.equal(service('build: .').source, { build: { context: '.', dockerfile: 'Dockerfile', args: {} } })
  assert.equal(service('build: {args: [A=1]}').source, {
    build: { context: '.', dockerfile: 'Dockerfile', args: { A: '1' } },
  })
  for (const path of ['..', 'a/../../b', '/etc', '~/x', '""', String.raw`'..\x'`]) {
    assert.match(refused(`build: ${path}`), 'is not a path inside the folder of the manifest')
    assert.match(refused(`build: {dockerfile: ${path}}`), 'is not a path inside the folder of the manifest')
  }
  assert.equal(service('build: {dockerfile_inline: "FROM x$$1"}').source, {
    build: { context: '.', dockerfile: '.dropmesh.Dockerfile', dockerfileInline: 'FROM x$1', args: {} },
  })
  assert.is(
    refused('build: {dockerfile: x, dockerfile_inline: FROM x}'),
    'services.web.build.dockerfile_inline: contradicts dockerfile: remove one of the two',
  )
  assert.match(refused('env_file: https://example.org/x.env'), 'is an address: publish that repository instead')
  assert.equal(lines('services: {web: {user: x}}'), ['compose.yaml:1: services.web: needs an image or a build'])
})

test('limits are exact, and refused outside of what an AP can set', () => {
  const limits = (text: string) => `deploy: {resources: {limits: {${text}}}}`
  assert.equal(service(limits('cpus: 0.1')).limits, { ...DEFAULT_LIMITS, cpu: 100 })
  assert.equal(service(limits('memory: 67108864, pids: "9"')).limits, {
    ...DEFAULT_LIMITS,
    memory: 67_108_864,
    pids: 9,
  })
  assert.match(refused(limits('memory: 1m')), 'limits.memory: Too small: expected number to be >=6291456 bytes')
  assert.match(refused(limits('cpus: 0')), 'expected number to be >=10 thousandths of a CPU')
  assert.match(refused(limits('pids: -1')), '"-1" is not a whole number')
  assert.match(refused('deploy: {resources: {reservations: {devices: []}}}'), 'devices: not supported')
  assert.match(refused('stop_grace_period: 2h'), 'stop_grace_period: Too big')
})

test('a chute says when it may be moved, and one on every AP cannot ask to be', () => {
  const of = (chute: string) => `services: {web: {image: nginx}}\nx-dropmesh: {${chute}}`
  for (const mode of ['always', 'overloaded', 'never'] as const) {
    const manifest = parseManifest(of(`rebalance: ${mode}`), 'compose.yaml')
    assert.is(manifest.rebalance, mode)
    assert.is(toSpec(manifest, new Map([['web', { images: [image] }]])).rebalance, mode)
  }
  assert.equal(lines(of('rebalance: often')), [
    'compose.yaml:2: x-dropmesh.rebalance: "often" is not supported: always or overloaded or never',
  ])
  const both = lines(of('everywhere: true, rebalance: always')).join()
  assert.match(
    both,
    /^compose.yaml:2: x-dropmesh.rebalance: a chute on every AP never moves, and x-dropmesh.everywhere on line 2/,
  )
  assert.is(parseManifest(of('everywhere: true, rebalance: never'), 'compose.yaml').rebalance, 'never')
})

test('a chute that runs on every AP cannot be exclusive', () => {
  const both = 'x-dropmesh: {everywhere: true, exclusive: true}'
  assert.match(lines(`services: {web: {image: nginx}}\n${both}`).join(), /^compose.yaml:2: .*exclusive.* contradicts/)
})

test('services share one placement: constraints add up, replicas agree', () => {
  const two = (a: string, b: string, more = '') =>
    `services:\n  a: {image: x, deploy: {${a}}}\n  b: {image: x, deploy: {${b}}}\n${more}`
  const on = (...labels: string[]) =>
    `placement: {constraints: [${labels.map((label) => `node.labels.${label}`).join(', ')}]}`
  assert.equal(parse(two(on('zone==roof'), on('gpu == yes', 'zone == roof'))).constraints, [
    { label: 'zone', value: 'roof' },
    { label: 'gpu', value: 'yes' },
  ])
  assert.match(
    lines(two(on('zone==roof'), on('zone==cellar'))).join(),
    /^compose.yaml:3: .*constraints\[0\]: no AP can fit: .* line 2 wants roof$/,
  )
  assert.is(parse(two('replicas: 3', '')).replicas, 3)
  assert.is(parse(two('replicas: 0', 'replicas: "0"')).replicas, 0)
  assert.match(
    lines(two('replicas: 3', 'replicas: 2')).join(),
    /^compose.yaml:3: services.b.deploy.replicas: .* line 2 says 3$/,
  )
  assert.is(parse(two('', '', 'x-dropmesh: {everywhere: true}')).replicas, 'everywhere')
  assert.match(
    lines(two('replicas: 3', '', 'x-dropmesh: {everywhere: true}')).join(),
    /^compose.yaml:2: .* contradicts x-dropmesh.everywhere on line 4/,
  )
  for (const constraint of [
    'node.labels.a != b',
    'node.hostname == x',
    'node.labels.a',
    'node.labels. == x',
    'node.labels.a ==',
  ]) {
    assert.match(refused(`deploy: {placement: {constraints: [${constraint}]}}`), 'write node.labels.KEY == VALUE')
  }
  assert.match(refused('deploy: {replicas: 1001}'), 'replicas')
  assert.is(parse(two('mode: global', '')).replicas, 'everywhere')
  assert.match(
    lines(two('mode: global', 'replicas: 2')).join(),
    /^compose.yaml:3: .* contradicts services.a.deploy.mode/,
  )
})

test('more of a thing than a record holds is refused at its service', () => {
  const ports = Array.from({ length: 65 }, (_, i) => i + 1)
  assert.match(refused(`ports: [${ports}]`), 'services.web: ports: Too big')
  assert.match(
    lines(`services: {${ports.map((i) => `s${i}: {image: x}`)}}`).join(),
    'compose.yaml:1: services: Too big',
  )
})

test('names are DNS labels, and the refusal says the rule', () => {
  for (const name of ['Web', 'my_web', '-a', 'a-', 'a'.repeat(64), 'a.b', 'é', '""']) {
    assert.match(
      lines(`services: {${name}: {image: x}}`).join(),
      'is not a name: a name is 1 to 63 of a-z, 0-9 and "-"',
    )
    assert.match(lines(`name: ${name}\n${web()}`).join(), 'is not a name: a name is 1 to 63 of a-z, 0-9 and "-"')
  }
})

test('words survive every way of quoting them', () => {
  const single = (text: string) => `'${text.replaceAll("'", `'\\''`)}'`
  const double = (text: string) => `"${text.replace(/["\\$`]/g, '\\$&')}"`
  const escaped = (text: string) =>
    [...text].map((c) => (c === '\n' ? `'\n'` : /\w/.test(c) ? c : `\\${c}`)).join('') || `''`
  const part = fc.tuple(
    fc.string({ unit: fc.constantFrom(...`ab '"\\$\`\n\t;&|<>()#*~é😀`) }),
    fc.constantFrom(single, double, escaped),
  )
  const gap = fc.stringMatching(/^[ \t\r\n]{1,3}$/)
  fc.assert(
    fc.property(fc.array(fc.tuple(fc.array(part, { minLength: 1, maxLength: 3 }), gap)), gap, (words, before) => {
      const line =
        before + words.map(([parts, after]) => parts.map(([text, quote]) => quote(text)).join('') + after).join('')
      assert.equal(
        shellWords(line),
        words.map(([parts]) => parts.map(([text]) => text).join('')),
      )
    }),
  )
  assert.equal(shellWords('a \\\n b'), ['a', 'b'])
  assert.equal(shellWords('"a\\\nb" "\\n"'), ['ab', '\\n'])
  for (const line of ["'", '"', '"\\"', '\\', 'a;b', 'a|b', 'a > b', '`a`', '(a)'])
    assert.throws(() => shellWords(line), 'the command')
})

test('durations add up to the millisecond, and what is finer is refused', () => {
  const units = { ms: 1, s: 1000, m: 60_000, h: 3_600_000 }
  const part = fc.tuple(fc.nat(100_000), fc.constantFrom(...(Object.keys(units) as (keyof typeof units)[])))
  fc.assert(
    fc.property(fc.array(part, { minLength: 1, maxLength: 5 }), (parts) => {
      const total = parts.reduce((sum, [amount, unit]) => sum + amount * units[unit], 0)
      assert.is(duration(parts.flat().join('')), total)
      assert.is(duration(`${(total / 1000).toFixed(3)}s`), total)
    }),
  )
  assert.is(duration('0'), 0)
  assert.is(duration('1500us500us'), 2)
  for (const text of ['', '10', '-1s', '1.s', '1d', '1 s', 's', '1e3s', '1ms1', '1us', '0.0001s', '٣s'])
    assert.throws(() => duration(text))
})

test('sizes and CPUs are exact, and what is not whole is refused', () => {
  fc.assert(
    fc.property(
      fc.nat(8000),
      fc.constantFrom('k', 'm', 'g'),
      fc.constantFrom('', 'b', 'iB', 'B'),
      (amount, unit, b) => {
        const bytes = amount * 1024 ** ('kmg'.indexOf(unit) + 1)
        assert.is(size(`${amount}${unit}${b}`), bytes)
        assert.is(size(`${amount}${unit.toUpperCase()}${b}`), bytes)
        assert.is(size(`${bytes}`), bytes)
      },
    ),
  )
  assert.is(size('1.5g'), 1.5 * 1024 ** 3)
  assert.is(size('512b'), 512)
  for (const text of ['', 'm', '1t', '-1m', '1.5', '0.3k', '1mm', '1ib', '0x10', '1e3']) assert.throws(() => size(text))
  fc.assert(fc.property(fc.nat(1_000_000), (n) => assert.is(cpus((n / 1000).toFixed(3)), n)))
  for (const text of ['', '.5', '0.0001', '-1', '1e-1', '1,5', 'all']) assert.throws(() => cpus(text))
})

test.run()
