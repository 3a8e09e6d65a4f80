// That a chute written as a compose.yaml is read as the same chute.
import fc from 'fast-check'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { DEFAULT_HEALTHCHECK } from '../../protocols/compose-spec.js'
import { writeManifest } from '../../protocols/compose-writer.js'
import { type ChuteSpec, DEFAULT_LIMITS, DEFAULT_STOP_GRACE } from '../../protocols/deployment.js'
import { parseManifest, toSpec } from '../../protocols/manifest.js'
import { serviceOf, specOf } from './support.js'

const DEFAULTS = { limits: DEFAULT_LIMITS, stopGrace: DEFAULT_STOP_GRACE }

/** What the reader makes of the text, with the images of the original. */
function readBack(spec: ChuteSpec): ChuteSpec {
  const manifest = parseManifest(writeManifest(spec), 'compose.yaml', { rights: ['*'] })
  return toSpec(
    manifest,
    new Map(spec.services.map(({ name, images, build }) => [name, { images, ...(build && { build }) }])),
  )
}

test('a chute is written as its publisher could have written it, without what goes without saying', () => {
  const web = serviceOf({
    ...DEFAULTS,
    command: ['serve', '--port', '80'],
    environment: { COLOUR: 'blue', PRICE: '5$', VERSION: '1.10' },
    ports: [
      { container: 80, protocol: 'tcp' },
      { container: 53, host: 5353, protocol: 'udp' },
    ],
    mounts: [{ volume: 'data', path: '/data', readOnly: true }],
    tmpfs: [{ path: '/run', size: 8 * 1024 ** 2 }],
    healthcheck: { ...DEFAULT_HEALTHCHECK, test: ['CMD-SHELL', 'wget -q localhost'], interval: 1500 },
    limits: { ...DEFAULT_LIMITS, cpu: 250 },
  })
  const helper = serviceOf({ ...DEFAULTS, name: 'helper' })
  const spec = specOf({
    services: [web, helper],
    volumes: [
      { name: 'data', ephemeral: false },
      { name: 'cache', ephemeral: true },
    ],
    replicas: 2,
    constraints: [{ label: 'site', value: 'home' }],
    rebalance: 'always',
  })
  assert.is(
    writeManifest(spec),
    `services:
  web:
    image: "070707070707"
    command:
      - serve
      - --port
      - "80"
    environment:
      COLOUR: blue
      PRICE: 5$$
      VERSION: "1.10"
    ports:
      - "80"
      - 5353:53/udp
    volumes:
      - data:/data:ro
    tmpfs:
      - /run:size=8m
    healthcheck:
      test: wget -q localhost
      interval: 1500ms
    deploy:
      replicas: 2
      placement:
        constraints:
          - node.labels.site == home
      resources:
        limits:
          cpus: 0.25
  helper:
    image: "070707070707"
volumes:
  data: null
  cache:
    x-dropmesh:
      ephemeral: true
x-dropmesh:
  rebalance: always
`,
  )
  assert.equal(readBack(spec), spec)
})

const name = fc.stringMatching(/^[a-z]([a-z0-9-]{0,8}[a-z0-9])?$/)
const names = (maxLength: number) => fc.uniqueArray(name, { minLength: 1, maxLength })
// A manifest can hold any text but NUL and half characters.
const text = fc
  .oneof(
    fc.string({ unit: 'grapheme' }),
    fc.string({ unit: fc.constantFrom(...'$\n\t\r #:\'"\\|>- ~\u0085\u009b\u202e\u2028\ufeff\u{e0001}é😀0') }),
    fc.constantFrom('null', 'true', '1.10', '0x1f', '~', '', '---', '2026-01-01', '<<', '$$'),
  )
  .map((any) => any.replaceAll('\0', ''))
const words = fc.array(text, { maxLength: 3 })
const path = fc.stringMatching(/^(\/[a-z]{1,4}){1,3}$/)
const ms = fc.integer({ min: 1, max: 3_600_000 })
const healthcheck = fc.record({
  test: fc.oneof(
    text.map((line) => ['CMD-SHELL', line]),
    fc.tuple(fc.constant('CMD'), text).map((all): string[] => all),
    fc.constant('NONE').map((none) => [none]),
  ),
  interval: fc.oneof(ms, fc.constant(30_000)),
  timeout: fc.oneof(ms, fc.constant(30_000)),
  startPeriod: fc.oneof(ms, fc.constant(0)),
  retries: fc.integer({ min: 1, max: 5 }),
})
const service = (named: string, volumes: readonly string[]) =>
  fc
    .record(
      {
        environment: fc.dictionary(fc.stringMatching(/^[A-Za-z_][\w.-]{0,4}$/), text, {
          maxKeys: 4,
          noNullPrototype: true,
        }),
        paths: fc.uniqueArray(path, { minLength: 4, maxLength: 4 }),
        mounted: fc.array(fc.tuple(fc.constantFrom(...volumes), fc.boolean()), { maxLength: 2 }),
        sizes: fc.array(fc.integer({ min: 4096, max: 2 ** 31 }), { maxLength: 2 }),
        stopGrace: fc.oneof(ms, fc.constant(DEFAULT_STOP_GRACE)),
        limits: fc.record({
          cpu: fc.integer({ min: 10, max: 9999 }),
          memory: fc.oneof(
            fc.integer({ min: 8, max: 4096 }).map((mb) => mb * 1024 ** 2),
            fc.nat(2 ** 30).map((n) => n + 2 ** 23),
          ),
          pids: fc.integer({ min: 1, max: 300 }),
        }),
        command: words,
        entrypoint: words,
        user: text,
        workingDir: path,
        healthcheck,
        capabilities: fc.uniqueArray(fc.constantFrom('NET_RAW', 'CHOWN'), { minLength: 1 }),
        devices: fc.array(
          fc.record({ host: fc.constant('/dev/ttyUSB0'), container: fc.constantFrom('/dev/ttyUSB0', '/dev/modem') }),
          { minLength: 1, maxLength: 2 },
        ),
        sysctls: fc.uniqueArray(
          fc.record({
            name: fc.constantFrom('net.core.somaxconn', 'kernel.sem'),
            value: text.map((t) => t.slice(0, 99)),
          }),
          { minLength: 1, selector: ({ name }) => name },
        ),
        ulimits: fc.uniqueArray(
          fc.record({
            name: fc.constantFrom('nofile', 'core'),
            soft: fc.integer({ min: -1, max: 9 }),
            hard: fc.nat(99),
          }),
          { minLength: 1, selector: ({ name }) => name },
        ),
        writableRoot: fc.constant(true),
        secrets: fc.uniqueArray(
          fc.record(
            {
              name: fc.stringMatching(/^[\w-][\w.-]{0,5}$/),
              file: fc.stringMatching(/^[\w-][\w.-]{0,5}$/),
              mode: fc.constantFrom(0o444, 0o400, 0o40, 0o777, 0),
              uid: fc.nat(70_000),
              gid: fc.nat(70_000),
            },
            { requiredKeys: ['name', 'file', 'mode'] },
          ),
          { minLength: 1, maxLength: 3, selector: ({ file }) => file },
        ),
        mayEnd: fc.constant(true),
        init: fc.constant(false),
        tty: fc.constant(true),
        stdinOpen: fc.constant(true),
        stopSignal: fc.constantFrom('SIGINT', 'SIGRTMIN+3'),
        hostname: fc.constant('box'),
        domainName: fc.constant('example.org'),
        extraHosts: fc.uniqueArray(
          fc.record({ name: fc.constantFrom('a', 'b.lan'), address: fc.constantFrom('10.0.0.1', 'fe80::1') }),
          { minLength: 1, selector: ({ name, address }) => `${name} ${address}` },
        ),
        dns: fc.constant<string[]>(['10.0.0.1', '::1']),
        dnsSearch: fc.constant<string[]>(['lan']),
        dnsOptions: fc.constant<string[]>(['ndots:2']),
        groups: fc.constant<string[]>(['20', 'dialout']),
        shmSize: fc.integer({ min: 4096, max: 2 ** 30 }),
        logging: fc.record({
          maxSize: fc.integer({ min: 1000, max: 10 ** 7 }),
          maxFiles: fc.integer({ min: 1, max: 9 }),
        }),
        configs: fc.uniqueArray(
          fc.record(
            {
              config: fc.constantFrom('app', 'web.conf'),
              path: fc.oneof(
                path.map((one) => `/etc${one}`),
                fc.constantFrom('/app', '/web.conf'),
              ),
              mode: fc.constantFrom(0o444, 0o400),
              uid: fc.nat(70_000),
            },
            { requiredKeys: ['config', 'path', 'mode'] },
          ),
          { minLength: 1, maxLength: 2, selector: (one) => one.path },
        ),
      },
      { requiredKeys: ['environment', 'paths', 'mounted', 'sizes', 'stopGrace', 'limits'] },
    )
    .map(({ paths, mounted, sizes, ...rest }) =>
      serviceOf({
        ...rest,
        name: named,
        mounts: mounted.map(([volume, readOnly], i) => ({ volume, readOnly, path: paths[i]! })),
        tmpfs: sizes.map((size, i) => ({ size, path: paths[2 + i]! })),
      }),
    )
const spec = fc
  .tuple(names(3), names(3))
  .chain(([services, volumes]) =>
    fc.record({
      services: fc.tuple(...services.map((one) => service(one, volumes))),
      volumes: fc.tuple(...volumes.map((one) => fc.boolean().map((ephemeral) => ({ name: one, ephemeral })))),
      replicas: fc.oneof(fc.integer({ min: 0, max: 3 }), fc.constant('everywhere' as const)),
      constraints: fc.array(fc.constant({ label: 'a/b', value: 'x $y' }), { maxLength: 1 }),
    }),
  )
  .map((any) => {
    const used = new Set(any.services.flatMap(({ configs = [] }) => configs.map(({ config }) => config)))
    const configs = [...used].map((name) => ({ name, content: `of $${name}\n\n # é` }))
    return configs.length > 0 ? { ...any, configs } : any
  })
  .map((any) => structuredClone(specOf(any))) // fast-check makes objects without a prototype

test('what is written of any chute is read as that chute', () => {
  fc.assert(fc.property(spec, (any) => assert.equal(readBack(any), any)))
})

test('who waits for whom is written', () => {
  const waits = [
    { service: 'db', condition: 'service_healthy' as const, restart: true },
    { service: 'job', condition: 'service_completed_successfully' as const, required: false },
  ]
  const services = [
    serviceOf({ ...DEFAULTS, dependsOn: waits }),
    serviceOf({ ...DEFAULTS, name: 'db' }),
    serviceOf({ ...DEFAULTS, name: 'job', mayEnd: true }),
  ]
  assert.equal(readBack(specOf({ services })), specOf({ services }))
})

test('white space is kept, whichever way YAML writes it', () => {
  for (const text of [' \n', '\n', ' a\nb', '\n a', 'a\n\n', 'a \n  b\n', ' ', 'a\n \n', '\t\n']) {
    const spaced = specOf({ services: [serviceOf({ user: text })] })
    assert.equal(readBack(spaced), spaced, JSON.stringify(text))
  }
})

test('nothing a publisher says controls a terminal', () => {
  const nasty = '\u001b[31mred\u009b0m\u202egnp.exe\u2028\u{e0001}'
  const written = writeManifest(
    specOf({ services: [serviceOf({ user: nasty, environment: { [nasty]: `two\nlines ${nasty}` } })] }),
  )
  assert.match(written, 'user: "\\e[31mred\\u009b0m\\u202egnp.exe\\u2028\\U000e0001"')
  assert.not.match(written, /(?!\n)[\p{C}\u2028\u2029]/u)
})

test('what this version does not know of a chute is shown all the same', () => {
  const later = { ...specOf({ services: [{ ...serviceOf(DEFAULTS), share: 3 } as never] }), sealed: new Uint8Array(2) }
  assert.match(writeManifest(later), /^ {4}share: 3$/m)
  assert.match(writeManifest(later), /^x-dropmesh:\n {2}sealed: "0000"$/m)
})

test.run()
