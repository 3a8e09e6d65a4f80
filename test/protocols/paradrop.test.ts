// What a paradrop.yaml may say, in both of its forms, what becomes of it, and that everything else is refused by name and line.
import fc from 'fast-check'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { ManifestError } from '../../protocols/compose-remarks.js'
import type { ImageSpec } from '../../protocols/deployment.js'
import { type Manifest, toSpec } from '../../protocols/manifest.js'
import { parseParadrop } from '../../protocols/paradrop.js'
import type { ParadropCircumstances } from '../../protocols/paradrop-service.js'

const FILE = 'paradrop.yaml'
const parse = (text: string, around: ParadropCircumstances = {}): Manifest => parseParadrop(text, FILE, around)

/** What is wrong with it, without columns. */
function problems(text: string, around?: ParadropCircumstances): string[] {
  try {
    parse(text, around)
  } catch (error) {
    assert.instance(error, ManifestError)
    return (error as ManifestError).message.split('\n').map((line) => line.replace(/^([^:]+:\d+):\d+:/, '$1:'))
  }
  throw new Error(`accepted: ${text}`)
}

const wrong = (text: string): string => problems(text).join('\n')

/** Notes by the path that they are about. */
const notesOf = ({ notes }: Manifest): Record<string, string> =>
  Object.fromEntries(notes.map(({ path, message }) => [path, message]))

const buildOf = ({ services }: Manifest, i = 0) => {
  const source = services[i]!.source
  return 'build' in source ? source.build : undefined
}
const from = (manifest: Manifest, i = 0) =>
  /^FROM (?!scratch)(\S+)$/m.exec(buildOf(manifest, i)?.dockerfileInline ?? '')?.[1]

const image: ImageSpec = { config: new Uint8Array(32).fill(7), platform: 'linux/arm64' }
const record = (manifest: Manifest) =>
  toSpec(manifest, new Map(manifest.services.map(({ name }) => [name, { images: [image] }])))

/** A multi-service chute whose `main` says this as well, from line 6. */
const main = (...body: string[]) =>
  ['name: x', 'services:', '  main:', '    type: light', '    image: python3', '    command: a b']
    .concat(body.map((line) => `    ${line}`))
    .join('\n')

// --- The two that ParaDrop's own people wrote ------------------------------------------------------------------------------

const GO = `name: go-hello-world
description: Hello World chute for Paradrop written in Go.
version: 1
type: light
use: go
command: app
config:
  web:
    port: 8080
source:
  type: git
  url: https://github.com/ParadropLabs/go-hello-world
`
const SOCKET = `name: python-socket-example
description: Chute that demonstrates using a TCP socket in Python.
version: 1
services:
  main:
    command: python2 -u server.py
    image: python2
    source: .
    type: light
    requests:
      port-bindings:
        "8081": 8081
`

test('a light chute of one service is built from its repository, as user 999, with its web port and /data', () => {
  const manifest = parse(GO)
  assert.is(manifest.name, 'go-hello-world')
  const [service] = manifest.services
  assert.is(service!.name, 'main')
  assert.is(buildOf(manifest)!.context, 'https://github.com/ParadropLabs/go-hello-world')
  assert.equal(buildOf(manifest)!.dockerfileInline!.split('\n'), [
    'FROM scratch AS folders',
    'WORKDIR /own/data',
    'FROM dropmesh/light-go',
    'USER 0:0',
    'COPY --from=folders --chown=999:999 /own/ /',
    'WORKDIR /opt/paradrop/app',
    'COPY --chown=999:999 . ./',
    'RUN export GOPROXY=off GOTOOLCHAIN=local GOCACHE=/tmp/go; if [ ! -f go.mod ]; then export GO111MODULE=off; fi; ' +
      'go build -o /usr/local/bin/app .',
    'ENV HOME=/home/paradrop',
    'USER 999:999',
    '',
  ])
  assert.equal(service!.command, ['app'])
  assert.is(service!.user, '999:999')
  assert.equal(service!.ports, [{ container: 8080, protocol: 'tcp' }])
  assert.equal(service!.mounts, [{ volume: 'data', path: '/data', readOnly: false }])
  assert.equal(service!.tmpfs, [{ path: '/home/paradrop', size: 64 * 1024 ** 2 }])
  assert.equal(manifest.volumes, [{ name: 'data', ephemeral: false }])
  assert.is(record(manifest).replicas, 1)
  assert.equal(notesOf(manifest), {
    '': '/data outlives updates, so the chute stays with its AP; x-dropmesh: {ephemeral: true} lets it move without its data',
    description: 'ignored: nothing on an AP shows it',
    version: 'ignored: the mesh counts the revisions of a chute, and PARADROP_CHUTE_VERSION is their number',
  })
})

test('a light chute of the form with services is built from its folder, with the ports it binds', () => {
  const manifest = parse(SOCKET)
  assert.is(buildOf(manifest)!.context, '.')
  assert.is(from(manifest), 'dropmesh/light-python2')
  assert.equal(manifest.services[0]!.command, ['python2', '-u', 'server.py'])
  assert.equal(manifest.services[0]!.ports, [{ container: 8081, host: 8081, protocol: 'tcp' }])
})

test('sources that are there are built, whatever repository they are also in', () => {
  const manifest = parse(GO, { hasSources: true })
  assert.is(buildOf(manifest)!.context, '.')
  assert.is(notesOf(manifest).source, 'ignored: the sources are here, in the folder of the manifest')
})

// --- Both of what schema and code took -------------------------------------------------------------------------------------

test('what a chute says may stand at the top level or under config, and only once', () => {
  const at = (text: string) => {
    const { notes: _, ...manifest } = parse(text)
    return manifest
  }
  const body =
    'name: a\ntype: light\nuse: node\ncommand: node x.js\nenvironment: {A: 1}\nweb: {port: 80}\nas_root: true'
  const under = `config:\n  ${body.replaceAll('\n', '\n  ')}`
  assert.equal(at(body), at(under))
  assert.equal(at(body), at(`${body}\n${under}`))
  assert.equal(problems(`${body}\nconfig: {name: b, web: {port: 81}}`), [
    'paradrop.yaml:8: config.name: contradicts name on line 1: remove one of the two',
    'paradrop.yaml:8: config.web.port: contradicts web.port on line 6: remove one of the two',
  ])
  const both = parse(`${body}\nconfig: {environment: {A: 2, B: "3"}}`)
  assert.equal(both.services[0]!.environment, { A: '2', B: '3' })
})

test('neither name, version nor type need be there: a folder with a Dockerfile is a chute', () => {
  const manifest = parse('version: 1\nconfig: {web: {port: 80}}')
  assert.is(manifest.name, undefined)
  assert.equal(buildOf(manifest), { context: '.', dockerfile: 'Dockerfile', args: {} })
  assert.is(manifest.services[0]!.user, undefined, 'a Dockerfile says who it runs as')
  assert.is(buildOf(parse('dockerfile: FROM x'))!.dockerfileInline, 'FROM x')
})

test('port bindings are a list or a map, by number or text, and the web port is one of them only once', () => {
  const ports = (text: string) => parse(main('requests:', `  ${text}`), { rights: ['port:*'] }).services[0]!.ports
  const bound = [{ container: 81, host: 8080, protocol: 'tcp' }]
  for (const key of ['port-bindings', 'port_bindings']) {
    assert.equal(ports(`${key}: [{external: 8080, internal: 81}]`), bound)
    assert.equal(ports(`${key}: {81: 8080}`), bound)
    assert.equal(ports(`${key}: {"81/tcp": "8080"}`), bound)
  }
  assert.equal(ports('port-bindings: {53/udp: 5353, 80: }'), [
    { container: 53, host: 5353, protocol: 'udp' },
    { container: 80, protocol: 'tcp' },
  ])
  assert.equal(ports('port-bindings: [{internal: 81}]'), [{ container: 81, protocol: 'tcp' }])
  const twice = 'services:\n  a: {type: image, image: x, requests: {port-bindings: {81: 8080}}}\n'
  assert.equal(problems(`${twice}  b: {type: image, image: x, requests: {port-bindings: {80: 8080}}}`), [
    'paradrop.yaml:3: services.b.requests.port-bindings.80: port 8080/tcp is published twice, first on line 2',
  ])
  for (const key of ['host_config', 'hostconfig']) {
    const web = parse(`config:\n  web: {port: 81}\n  ${key}: {port_bindings: {'81': 8080}}`)
    assert.equal(web.services[0]!.ports, bound)
  }
})

test('a web service is that of the service named, of main, or of the only one', () => {
  const services = 'services: {main: {type: image, image: a}, db: {type: image, image: b}}\n'
  const web = (text: string) => parse(text).services.map(({ ports }) => ports.map(({ container }) => container))
  assert.equal(web(`${services}web: {service: db, port: 81}`), [[], [81]])
  assert.equal(web(`${services}web: {port: 81}`), [[81], []])
  assert.equal(web('services: {only: {type: image, image: a}}\nweb: {port: 81}'), [[81]])
  assert.equal(problems(`${services}web: {service: none, port: 81}`), [
    'paradrop.yaml:2: web.service: there is no service none',
  ])
})

test('wifi and its lease, in either spelling, are passed over with why; what is nothing without a radio is refused', () => {
  const net =
    'config: {net: {wifi: {type: wifi, intfName: wlan0, ssid: a, dhcp: {lease: 1h}, options: {isolate: true}}}}'
  assert.match(notesOf(parse(net))['config.net.wifi']!, /^ignored: an AP gives a chute no network of its own/)
  const lan = main('interfaces:', '  wlan0: {type: wifi-ap, dhcp: {leasetime: 12h}, wireless: {key: secret123}}')
  const manifest = parse(lan)
  assert.ok('services.main.interfaces.wlan0' in notesOf(manifest))
  assert.not.match(JSON.stringify(record(manifest)), /secret123/)
  assert.equal(problems('config: {net: {mon: {type: wifi, mode: monitor}}}'), [
    'paradrop.yaml:1: config.net.mon.type: not supported in a chute: an AP gives a chute no radio, and without one this ' +
      'chute would do nothing',
  ])
  assert.match(wrong(main('interfaces: {a: {type: vlan, vlan-id: 7}}')), /a\.type: not supported in a chute: .*VLAN/)
  assert.match(wrong(main('interfaces: {a: {type: token-ring}}')), /is no type of interface: wifi-ap, lan/)
})

test('true and false are those of YAML 1.1, and a dollar sign is itself', () => {
  const manifest = parse(
    `as_root: yes\ntype: light\nuse: node\ncommand: [node, $HOME, 8080, true]\nenvironment: {A: $B, N: }`,
  )
  assert.is(manifest.services[0]!.user, '0:0')
  assert.not.match(buildOf(manifest)!.dockerfileInline!, /999|HOME/)
  assert.equal(manifest.services[0]!.command, ['node', '$HOME', '8080', 'true'])
  assert.equal(manifest.services[0]!.environment, { A: '$B' })
  assert.is(notesOf(manifest)['environment.N'], 'has no value, and is left out')
})

test('with services, what only one service can say is passed over, with a note', () => {
  const notes = notesOf(parse(`type: light\nuse: node\nconfig: {net: {x: {type: vlan}}}\n${main()}`))
  for (const key of ['type', 'use', 'config.net'])
    assert.is(notes[key], 'ignored: where there are services, each says it itself')
})

// --- What is made of it ----------------------------------------------------------------------------------------------------

test('a light chute is built on the base that it names, its node names, or the default, in this order', () => {
  const lightBases = { python3: 'my/python' }
  assert.is(from(parse(main())), 'dropmesh/light-python3')
  assert.is(from(parse(main(), { lightBases })), 'my/python')
  assert.is(
    from(parse(main('build: {image_source: own/python, image_version: 3.10}'), { lightBases })),
    'own/python:3.10',
  )
  assert.is(from(parse(main('build: {image_source: own}', 'x-dropmesh: {base: "x:1"}'), { lightBases })), 'x:1')
  assert.is(from(parse(`${main()}\nx-dropmesh: {base: all}`)), 'all')
  assert.is(from(parse('type: light\nuse: node\ncommand: node x')), 'dropmesh/node')
  assert.is(from(parse('type: light\nuse: python2-cv\ncommand: x\n')), 'dropmesh/light-python2-cv')
  assert.equal(problems('type: light\nuse: __proto__\ncommand: x'), [
    'paradrop.yaml:2: use: "__proto__" is no language of light chutes: node, java, python2, python3, go, gradle, maven',
  ])
  assert.match(wrong('type: normal\nx-dropmesh: {base: x}'), /:2: x-dropmesh\.base: is what a light chute is built on/)
})

test('a command is split into words, and given to a shell only where it takes one', () => {
  const command = (text: string) => parse(`type: light\nuse: python3\ncommand: ${text}`).services[0]!.command
  assert.equal(command('python -u "a b.py" --port=80'), ['python', '-u', 'a b.py', '--port=80'])
  for (const text of ['a && b', 'a $PORT', 'a > /tmp/x', 'cd x', 'A=b c', 'exec a', 'ls *.py'])
    assert.equal(command(JSON.stringify(text)), ['/bin/sh', '-c', text])
  assert.match(wrong(`type: light\nuse: python3\ncommand: a 'b`), /:3: command: .* never closed/)
})

test('on dropmesh/node, npm start is what package.json says, and what takes a shell or npm is refused', () => {
  const node = (command: string, json?: string) => {
    const readFile = (path: string) => (path === './package.json' ? json : undefined)
    const text = `type: light\nuse: node\ncommand: ${command}`
    return { run: () => parse(text, { readFile }), lacks: () => problems(text, { readFile }) }
  }
  const { run } = node(
    'npm start',
    '{"scripts": {"start": "node --trace-warnings app.js"}, "dependencies": {"a": "1"}}',
  )
  assert.equal(run().services[0]!.command, ['node', '--trace-warnings', 'app.js'])
  assert.is(
    notesOf(run()).use,
    'no build has a network: what package.json asks for comes from node_modules of the folder (npm install --omit=dev)',
  )
  assert.equal(node('[npm, run, start]', '{}').run().services[0]!.command, ['node', 'server.js'])
  for (const [command, json] of [
    ['npm start', undefined],
    ['npm start', '{"scripts": {"start": 7}}'],
    ['npm start', '{'],
    ['npm start', '{"scripts": {"start": "a && b"}}'],
    ['npm run serve', '{}'],
    ['node $X', '{}'],
  ] as const)
    assert.match(node(command, json).lacks().join(), /^paradrop\.yaml:3: command: needs a shell or npm/)
  const other = parse('type: light\nuse: node\ncommand: npm start\nx-dropmesh: {base: own}')
  assert.equal(other.services[0]!.command, ['npm', 'start'])
})

test('an image is taken by its name, with a /data of its own, and nothing is built for it', () => {
  const manifest = parse(`${main()}\n  db: {type: image, image: "mongo:3.0", source: .}`)
  assert.equal(manifest.services[1]!.source, { image: 'mongo:3.0' })
  assert.equal(manifest.services[1]!.mounts, [{ volume: 'data-db', path: '/data', readOnly: false }])
  assert.is(notesOf(manifest)['services.db.source'], 'ignored: nothing is built of an image')
  assert.equal(
    manifest.volumes.map(({ name }) => name),
    ['data', 'data-db'],
  )
  for (const text of ['type: image\nuse: x', 'type: image\nimage: x', 'config: {external_image: x}'])
    assert.equal(parse(text).services[0]!.source, { image: 'x' })
  assert.match(wrong('type: image'), /needs an image/)
})

test('a folder of a service is one of where the chute comes from', () => {
  const context = (chute: string, service: string, around?: ParadropCircumstances) =>
    buildOf(parse(`${chute}\n${main(`source: ${service}`)}`.replace('name: x\n', ''), around))!.context
  const git = 'source: {type: git, url: "https://x.org/a.git", checkout: v1}'
  assert.is(context(git, './web/'), 'https://x.org/a.git#v1:web')
  assert.is(context(git, '.'), 'https://x.org/a.git#v1')
  assert.is(context(git.replace(', checkout: v1', ''), 'web'), 'https://x.org/a.git#:web')
  assert.is(context(git, 'web', { hasSources: true }), 'web')
  assert.is(context('', 'git@x.org:a/b.git'), 'ssh://git@x.org/a/b.git')
  assert.is(
    buildOf(parse('config: {download: {url: "https://x.org/a", branch: main}}'))!.context,
    'https://x.org/a#main',
  )
  assert.is(buildOf(parse('source: {type: inline}'))!.context, '.')
})

test('a repository on GitHub is one for a source of type http as well, as ParaDrop had it; any other address is an archive', () => {
  const source = (url: string) => `source: {type: http, url: "${url}"}`
  for (const url of ['https://github.com/ParadropLabs/go-hello-world', 'http://github.com/a/b.git'])
    assert.is(buildOf(parse(source(url)))!.context, url)
  for (const url of ['https://github.com/a/b/archive/v1.tar.gz', 'https://x.org/github.com/a/b', 'https://x.org/a.git'])
    assert.match(wrong(source(url)), /no archive is fetched/)
})

test('x-dropmesh says what ParaDrop has no word for, of the chute and of a service', () => {
  const manifest = parse(
    `${main('x-dropmesh: {cap_add: [NET_ADMIN], read_only: false}')}\nx-dropmesh: {ephemeral: true, everywhere: true}`,
    { rights: ['cap:*', 'root:write'] },
  )
  assert.equal(manifest.services[0]!.capabilities, ['NET_ADMIN'])
  assert.is(manifest.services[0]!.writableRoot, true)
  assert.is(manifest.replicas, 'everywhere')
  assert.equal(manifest.volumes, [{ name: 'data', ephemeral: true }])
  assert.match(notesOf(manifest)['']!, /^what is in \/data is lost/)
})

// --- What is refused -------------------------------------------------------------------------------------------------------

test('all that is wrong is told at once, by file, line and key', () => {
  const text = `name: Not A Name
services:
  main:
    type: heavy
    image: python3
    command: {a: b}
    gpu: 1
    environment: {1A: x, B: [1]}
    dns: [nowhere]
    source: ../elsewhere
    requests: {privileged: yes, network-mode: host, port-bindings: [{external: 80}, {internal: 99999}], devices: []}
  Bad_Name: {type: image, image: x}
web: {port: eighty}
x-drop: {}
`
  assert.equal(problems(text), [
    'paradrop.yaml:1: name: "Not A Name" is not a name: a name is 1 to 63 of a-z, 0-9 and "-", with a letter or digit at both ends',
    'paradrop.yaml:4: services.main.type: "heavy" is not supported: light or normal or image',
    'paradrop.yaml:6: services.main.command: must be text or a list, not a map',
    'paradrop.yaml:7: services.main.gpu: not supported in a chute',
    'paradrop.yaml:8: services.main.environment.1A: "1A" is not the name of a variable: letters, digits, "_", "." and "-"',
    'paradrop.yaml:8: services.main.environment.B: must be text or a number or true or false, not a list',
    'paradrop.yaml:9: services.main.dns[0]: "nowhere" is not an IP address',
    'paradrop.yaml:10: services.main.source: "../elsewhere" is not a path inside the folder of the manifest',
    'paradrop.yaml:11: services.main.requests.privileged: not supported in a chute: a chute has no access to its host',
    'paradrop.yaml:11: services.main.requests.network-mode: not supported in a chute: a chute has no access to its host',
    'paradrop.yaml:11: services.main.requests.port-bindings[0]: needs internal, the port in the container',
    'paradrop.yaml:11: services.main.requests.port-bindings[1].internal: "99999" is not a port: 1 to 65535',
    'paradrop.yaml:11: services.main.requests.devices: not supported in a chute',
    'paradrop.yaml:12: services.Bad_Name: "Bad_Name" is not a name: a name is 1 to 63 of a-z, 0-9 and "-", with a letter or digit at both ends',
    'paradrop.yaml:13: web.port: "eighty" is not a port: 1 to 65535',
    'paradrop.yaml:14: x-drop: not supported in a chute: no extension begins so but x-dropmesh, which does not stand here',
  ])
})

test('what needs a right needs it here as in a compose.yaml, and what no right gives is refused', () => {
  const text = main(
    'requests: {port-bindings: {"80": 80}}',
    'x-dropmesh: {cap_add: [NET_ADMIN, SYS_ADMIN], read_only: false}',
  )
  const needs = (right: string) =>
    `needs the right ${right}, which your key does not hold; an admin gives it with "dropmesh grant KEY --right ${right}"`
  assert.equal(problems(text), [
    `paradrop.yaml:7: services.main.requests.port-bindings.80: ${needs('port:80')}`,
    `paradrop.yaml:8: services.main.x-dropmesh.cap_add[0]: ${needs('cap:NET_ADMIN')}`,
    'paradrop.yaml:8: services.main.x-dropmesh.cap_add[1]: not supported in a chute: no right gives cap:SYS_ADMIN',
    `paradrop.yaml:8: services.main.x-dropmesh.read_only: ${needs('root:write')}`,
  ])
})

test('addresses that give away a password, hide an option or are no repository are refused', () => {
  for (const url of [
    'https://me:pw@x.org/a',
    'file:///etc',
    'https://x.org/a#b',
    '--upload-pack=x',
    'ext::sh -c x',
    'a b',
  ])
    assert.match(wrong(`source: {type: git, url: ${JSON.stringify(url)}}`), /:1: source\.url: .* is no URL of a git/)
  for (const ref of ['-x', 'a..b', 'a b', 'x:y'])
    assert.match(wrong(`source: {url: "https://x.org/a", checkout: ${JSON.stringify(ref)}}`), /is no branch, tag or/)
  assert.match(
    wrong('source: {type: http, url: "https://x.org/a.tar"}'),
    /:1: source: no archive is fetched, since a node fetches by git alone: unpack it/,
  )
  assert.match(wrong('source: {url: "https://x.org/a", secret: s}'), /a password does not belong into a manifest/)
})

test('a light chute without a language or a command, and a chute without services, are refused', () => {
  assert.equal(problems('type: light'), [
    'paradrop.yaml:1: needs to say what it uses, such as python3',
    'paradrop.yaml:1: needs a command',
  ])
  assert.match(wrong('services: {}'), /has no services/)
  assert.match(wrong('services: {a: }'), /services\.a: must be a map, not empty/)
  assert.match(wrong('- a'), /must be a map, not a list/)
  assert.match(wrong('dataDir: /var/lib'), /the data of a chute is at \/data/)
})

test('a name of a language or a base cannot add to the Dockerfile', () => {
  for (const text of ['use: "node\\nRUN x"\ntype: light\ncommand: x', `${main()}\nx-dropmesh: {base: "a\\nRUN x"}`])
    assert.ok(problems(text).length > 0)
  fc.assert(
    fc.property(fc.string(), fc.string(), (use, base) => {
      try {
        const manifest = parse(
          `type: light\ncommand: x\nuse: ${JSON.stringify(use)}\nx-dropmesh: {base: ${JSON.stringify(base)}}`,
        )
        assert.match(buildOf(manifest)!.dockerfileInline!, /^FROM [\w./:@-]+$/m)
        assert.ok(buildOf(manifest)!.dockerfileInline!.split('\n').length <= 11)
      } catch (error) {
        assert.instance(error, ManifestError)
      }
    }),
  )
})

// --- Anything --------------------------------------------------------------------------------------------------------------

const KEYS =
  'name version type use image command config web port service services main environment net host_config requests ' +
  'port-bindings port_bindings external internal interfaces source url checkout build image_source x-dropmesh base ephemeral ' +
  'cap_add as_root dns dockerfile download privileged network-mode mode 81 <<'
const WORDS = [
  'light',
  'image',
  'normal',
  'python3',
  'node',
  'git',
  'https://x.org/a',
  '.',
  'wifi',
  'vlan',
  'yes',
  'a b',
  '$x',
  '',
]

test('a chute of one service is the same in both forms', () => {
  // No word that is a shell's own.
  const word = fc.stringMatching(/^\/[a-z0-9._/-]{1,8}$/)
  const port = fc.integer({ min: 1024, max: 65535 })
  const said = fc.record({
    use: fc.constantFrom('node', 'python2', 'python3', 'go', 'gradle', 'maven', 'java', 'python2-cv'),
    command: fc.array(word, { minLength: 1, maxLength: 4 }),
    environment: fc.dictionary(fc.stringMatching(/^[A-Z]{1,4}$/), fc.oneof(word, fc.integer(), fc.boolean()), {
      maxKeys: 3,
    }),
    ports: fc.uniqueArray(port, { maxLength: 3 }),
    web: fc.option(port, { nil: undefined }),
    asRoot: fc.boolean(),
    dns: fc.array(fc.ipV4(), { maxLength: 2 }),
  })
  fc.assert(
    fc.property(said, ({ use, command, environment, ports, web, asRoot, dns }) => {
      const bindings = Object.fromEntries(ports.map((one) => [one, one]))
      const one = {
        ...{ name: 'x', type: 'light', use, command, as_root: asRoot, dns },
        config: { environment, host_config: { port_bindings: bindings }, web: web && { port: web } },
      }
      const requests = { 'as-root': asRoot, 'port-bindings': ports.map((is) => ({ external: is, internal: is })) }
      const several = {
        name: 'x',
        services: { main: { type: 'light', image: use, command: command.join(' '), environment, dns, requests } },
        web: web && { service: 'main', port: web },
      }
      // A map with numbers for its keys is in the order of the numbers.
      const sorted = (shape: object) => {
        const { notes: _, ...manifest } = parse(JSON.stringify(shape))
        for (const service of manifest.services) service.ports.sort((a, b) => a.container - b.container)
        return manifest
      }
      assert.equal(sorted(one), sorted(several))
      assert.ok(record(parse(JSON.stringify(one))))
    }),
  )
})

test('a manifest of any shape is read into what a record can hold, or refused with its places', () => {
  const key = fc.constantFrom(...KEYS.split(' '))
  const { tree } = fc.letrec((tie) => ({
    tree: fc.oneof(
      { maxDepth: 5, withCrossShrink: true },
      fc.oneof(fc.constantFrom(...WORDS), fc.integer({ min: -1, max: 70_000 }), fc.boolean(), fc.constant(null)),
      fc.array(tie('tree'), { maxLength: 3 }),
      fc.dictionary(key, tie('tree'), { maxKeys: 8 }),
    ),
  }))
  fc.assert(
    fc.property(fc.dictionary(key, tree, { maxKeys: 10 }), fc.boolean(), (shape, hasSources) => {
      try {
        const manifest = parse(JSON.stringify(shape), { rights: ['*'], hasSources })
        record(manifest)
      } catch (error) {
        assert.instance(error, ManifestError, String((error as Error).stack))
        for (const { line, message } of (error as ManifestError).problems) assert.ok(line >= 1 && message.length > 0)
      }
    }),
    { numRuns: 2000 },
  )
})

test.run()
