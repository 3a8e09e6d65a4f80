// What people write: manifests, env files, paradrop.yaml, addresses of git.
import { utf8 } from '../../../protocols/bytes.js'
import { readEnv } from '../../../protocols/compose-env.js'
import { folderNameOf, isGitUrl, parseGitUrl } from '../../../protocols/git-url.js'
import { parseManifest, toSpec } from '../../../protocols/manifest.js'
import { parseParadrop } from '../../../protocols/paradrop.js'
import { type Decoder, key, must, text } from './decoder.js'

const ENV = `# settings
A=1
export B="two \\"words\\" \${A}" # more
C='as $it is
over lines'
D: \${A:-\${B:-x}}
E
`

export const env: Decoder = {
  name: 'env-file',
  form: 'text',
  limit: 64 * 1024,
  seeds: [utf8(ENV), utf8('A="b"')],
  reads: ['protocols/compose-env.js', 'protocols/compose-interpolation.js'],
  quick: 100,
  decode: (input) => {
    const rows = text(input).split('\n').length
    for (const format of ['quoted', 'raw'] as const) {
      const { lines, problems } = readEnv(text(input), (name) => (name < 'M' ? name : undefined), format)
      for (const { line } of [...lines, ...problems]) must(line >= 1 && line <= rows, 'a line that is not there')
    }
  },
}

const MANIFEST = `name: hello
services:
  web:
    build: { context: ., dockerfile: Dockerfile, args: [A=1] }
    command: sh -c 'echo "a b"' \\; c
    entrypoint: [a, "b"]
    environment: { A: 1, B: true, C: "$$x" }
    ports: ["8080", "8080:80/udp", { target: 5, published: 6, protocol: tcp }]
    volumes: [data:/data:ro, { type: volume, source: data, target: /d, read_only: true }]
    tmpfs: /run:size=64m
    healthcheck: { test: ["CMD", "a"], interval: 1m30s, timeout: 3s, retries: 2, start_period: 1s }
    user: "1000"
    working_dir: /app
    stop_grace_period: 5s
    cap_add: [NET_RAW]
    devices: ["/dev/ttyUSB0:/dev/modem"]
    sysctls: [net.ipv4.ip_forward=1]
    ulimits: { nofile: 100, nproc: { soft: 1, hard: 2 } }
    read_only: true
    security_opt: [no-new-privileges]
    deploy:
      replicas: 2
      placement: { constraints: ["node.labels.zone == roof"] }
      resources: { limits: { cpus: "0.5", memory: 64m, pids: 50 } }
  db: &db { image: "redis:7" }
  other:
    <<: *db
    user: "5"
  more:
    extends: other
    env_file: [a.env, {path: b.env, required: false}]
    image: x:\${TAG:-1}
    profiles: [""]
    depends_on: {db: {condition: service_healthy, restart: true}}
    configs: [{source: app, target: /etc/app, mode: 0400}]
    extra_hosts: ["a=10.0.0.1"]
    logging: {options: {max-size: 1m}}
configs: {app: {content: "a $B"}, file: {file: x}}
include: [{path: other.yaml}]
volumes:
  data:
    x-dropmesh: { ephemeral: true }
x-dropmesh:
  rebalance: always
`
const RIGHTS = ['cap:NET_RAW', 'device:*', 'sysctl:net.*', 'ulimit:*', 'port:*']
const SMALL = 'services:\n  web:\n    image: "a:1"\n    ports:\n      - "80"\n'

/** What the manifest reads beside itself. */
const FILES: Record<string, string> = {
  'other.yaml': 'services: {small: {image: x}}',
  'a.env': 'A=1',
  x: 'text',
}

/** What is read in 50 ms; a longer manifest takes longer, in proportion. */
export const manifest: Decoder = {
  name: 'manifest',
  form: 'text',
  limit: 8 * 1024,
  seeds: [utf8(MANIFEST), utf8(SMALL)],
  reads: [
    ...[
      'manifest',
      'compose-reader',
      'compose-values',
      'compose-parts',
      'compose-service',
      'compose-checks',
      'compose-files',
    ],
    ...['compose-merge', 'compose-spec', 'compose-env', 'compose-interpolation', 'policy'],
  ].map((file) => `protocols/${file}.js`),
  quick: 100,
  decode: (input) => {
    const read = text(input)
    const around = {
      variables: (name: string) => (name < 'M' ? name : undefined),
      readFile: (path: string) => FILES[path],
    }
    const manifest = parseManifest(read, 'compose.yaml', { ...around, rights: RIGHTS })
    const images = [{ config: key(1), platform: 'linux/amd64' }]
    toSpec(manifest, new Map(manifest.services.map(({ name }) => [name, { images }])))
  },
}

const ONE_SERVICE = `name: &n go-hello
version: 1
type: light
use: go
command: app $X
as_root: yes
config:
  web: {port: 8080}
  environment: {A: 1, B: }
  host_config: {port_bindings: {81: 81, "53/udp": 5353}}
  net: {wifi: {type: wifi, mode: ap, intfName: wlan0, dhcp: {lease: 12h}}}
  image_source: *n
source: {type: git, url: "https://x.org/a", checkout: v1}
x-dropmesh: {ephemeral: true, base: "b:1"}
`
const SERVICES = `services:
  main:
    type: light
    image: node
    source: web
    command: [npm, start]
    dns: [10.0.0.1]
    build: {packages: [iptables]}
    interfaces: {wlan0: {type: wifi-ap, dhcp: {leasetime: 12h}}}
    requests: {as-root: true, port-bindings: [{external: 8081, internal: 81}], network-mode: bridge}
    x-dropmesh: {cap_add: [NET_RAW]}
  db: {type: image, image: "mongo:3.0"}
web: {service: main, port: 5000}
`
const SOURCES: Record<string, string> = {
  'web/package.json': '{"scripts": {"start": "node x"}}',
  './go.mod': 'require x',
}

export const paradrop: Decoder = {
  name: 'paradrop',
  form: 'text',
  limit: 8 * 1024,
  seeds: [utf8(ONE_SERVICE), utf8(SERVICES)],
  reads: ['paradrop', 'paradrop-parts', 'paradrop-service', 'paradrop-light'].map((file) => `protocols/${file}.js`),
  quick: 100,
  decode: (input) => {
    const around = { readFile: (path: string) => SOURCES[path], hasSources: input.length % 2 === 0, rights: RIGHTS }
    const manifest = parseParadrop(text(input), 'paradrop.yaml', around)
    const images = [{ config: key(1), platform: 'linux/amd64' }]
    toSpec(manifest, new Map(manifest.services.map(({ name }) => [name, { images }])))
  },
}

export const gitUrl: Decoder = {
  name: 'git-url',
  form: 'text',
  limit: 4096,
  seeds: ['https://h.example/a/b.git#v1:sub', 'git@h:a.git', 'ssh://u@[::1]:22/a#main', 'git://h/a'].map(utf8),
  reads: ['protocols/git-url.js'],
  decode: (input) => {
    const { repository, ref, folder } = parseGitUrl(text(input))
    must(![repository, ref].some((word) => word?.startsWith('-')), 'git takes it for an option')
    must(/^(https?|git|ssh):|^[^:/]+@[^:/]+:/.test(repository), 'another way than those of git that are meant')
    must(!folder.split('/').includes('..'), 'a folder outside')
    isGitUrl(text(input))
    folderNameOf({ repository, ref, folder, scheme: 'https' })
  },
}
