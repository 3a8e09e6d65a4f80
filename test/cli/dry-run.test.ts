// What `publish --dry-run` says of a manifest, without a node: what would be sent and run, and what was ignored and why.
import { mkdirSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import type { PublishPlan } from '../../cli/publish-plan.js'
import { TestMesh } from '../support/mesh.js'

const mesh = new TestMesh() // of no AP: for its command line

let chutes = 0
function chute(files: Record<string, string>): string {
  const dir = join(mesh.dir, `chute${chutes++}`)
  mkdirSync(dir)
  for (const [name, text] of Object.entries(files)) {
    mkdirSync(dirname(join(dir, name)), { recursive: true })
    writeFileSync(join(dir, name), text)
  }
  return dir
}
const dryRun = (dir: string, ...more: string[]) =>
  mesh.cli(['publish', dir, '--dry-run', '--data', join(mesh.dir, 'none'), ...more])

const noNode = `no node runs on ${join(mesh.dir, 'none')}; start it with "dropmesh up", or name its folder with --data`

const MANIFEST = `name: shop
services:
  web:
    build: ./web
    ports: ["80:80"]
    container_name: shop
    environment: {FROM_SHELL: , FROM_FILE: $FROM_FILE, BOTH: $BOTH, UNSET: $UNSET}
    depends_on: [db]
    volumes: [data:/data]
    configs: [app]
  db: {image: "redis:7", labels: {a: b}}
  debug: {image: x, profiles: [debug]}
volumes: {data: }
configs: {app: {file: app.conf}}
`

test('a dry run says what would be built, sent and run, and what was ignored and why; it needs no node', async () => {
  const dir = chute({
    ...{ 'compose.yaml': MANIFEST, 'app.conf': 'x=1\n', '.env': 'FROM_FILE=file\nBOTH=file\n' },
    ...{
      'web/Dockerfile': 'FROM scratch\n',
      'web/a/page': '0123456789',
      'web/.dockerignore': 'left\nDockerfile\n',
      'web/left': 'x',
    },
  })
  Object.assign(mesh.env, { FROM_SHELL: 'shell', BOTH: 'shell' })
  const { status, stdout, stderr } = await dryRun(dir, '--on', 'site=home')
  assert.is(status, 0, stderr)
  assert.equal(
    stdout
      .trim()
      .split('\n')
      .map((line) => line.replace(dir, '')),
    [
      'shop: 1 on any AP with site=home',
      '  service web: build web, 0.5 CPUs, 256 MiB',
      '    sent: 3 files, 39 bytes, to be built by web/Dockerfile',
      '    ports: 80->80/tcp',
      '    volumes: data at /data',
      '    starts after: db (service_started)',
      '  service db: image redis:7, 0.5 CPUs, 256 MiB',
      `    not looked for: ${noNode}`,
      '  volumes: data (stays on its AP)',
      '  configs, in the record: app (4 bytes)',
      '  rights it needs: port:80',
      'from your environment, and readable in the record: FROM_SHELL, BOTH',
      '/compose.yaml:6:5: services.web.container_name: ignored: a service is reached by its own name',
      '/compose.yaml:7:69: services.web.environment.UNSET: variable UNSET is not set, and stands for nothing',
      '/compose.yaml:11:26: services.db.labels: ignored: nothing on an AP reads it',
      '/compose.yaml:12:3: services.debug: left out: its profiles (debug) are off; --profile debug turns one on',
      'nothing was built, and nothing was published',
    ],
  )
  const plan = JSON.parse((await dryRun(dir, '--json', '--profile', 'debug')).stdout) as PublishPlan
  assert.equal(
    plan.services.map(({ name }) => name),
    ['web', 'db', 'debug'],
  )
  mesh.env.COMPOSE_PROFILES = 'other,debug'
  const byEnvironment = JSON.parse((await dryRun(dir, '--json')).stdout) as PublishPlan
  delete mesh.env.COMPOSE_PROFILES
  assert.is(byEnvironment.services.length, 3)
})

const PARADROP = `name: board
version: 1
services:
  main:
    type: light
    image: python3
    command: python3 -u server.py && echo "$PORT"
    requests: {port-bindings: [{external: 81, internal: 5000}]}
  db: {type: image, image: "mongo:3.0"}
web: {service: main, port: 5000}
source: {type: git, url: "https://example.org/board"}
`

test('a dry run of a ParaDrop chute shows the Dockerfile that is made for it, and what its repository is for', async () => {
  const read = async (dir: string) => {
    const { status, stdout, stderr } = await dryRun(dir)
    assert.is(status, 0, stderr)
    return stdout
      .trim()
      .split('\n')
      .map((line) => line.replace(dir, ''))
  }
  const lines = await read(chute({ 'paradrop.yaml': PARADROP, 'server.py': '' }))
  assert.equal(lines, [
    'board: 1 on any AP',
    '  service main: build ., 0.5 CPUs, 256 MiB',
    '    sent: 3 files, 683 bytes, to be built by:',
    '    | FROM scratch AS folders',
    '    | WORKDIR /own/data',
    '    | FROM dropmesh/light-python3',
    '    | USER 0:0',
    '    | COPY --from=folders --chown=999:999 /own/ /',
    '    | WORKDIR /opt/paradrop/app',
    '    | COPY --chown=999:999 . ./',
    '    | RUN if [ -f requirements.txt ]; then PIP_BREAK_SYSTEM_PACKAGES=1 python3 -m pip install --no-index --find-links wheels --requirement requirements.txt; fi',
    '    | ENV HOME=/home/paradrop',
    '    | USER 999:999',
    '    runs: /bin/sh -c "python3 -u server.py && echo \\"$PORT\\""',
    '    ports: 81->5000/tcp',
    '    volumes: data at /data',
    '  service db: image mongo:3.0, 0.5 CPUs, 256 MiB',
    `    not looked for: ${noNode}`,
    '    volumes: data-db at /data',
    '  volumes: data (stays on its AP), data-db (stays on its AP)',
    '  rights it needs: port:81',
    '/paradrop.yaml:1:1: /data outlives updates, so the chute stays with its AP; x-dropmesh: {ephemeral: true} lets it move without its data',
    '/paradrop.yaml:2:1: version: ignored: the mesh counts the revisions of a chute, and PARADROP_CHUTE_VERSION is their number',
    '/paradrop.yaml:11:1: source: ignored: the sources are here, in the folder of the manifest',
    'nothing was built, and nothing was published',
  ])
  const alone = await read(chute({ 'paradrop.yml': PARADROP, 'README.md': '', '.gitignore': '' }))
  const at = alone.indexOf('  service main: build https://example.org/board, 0.5 CPUs, 256 MiB')
  assert.is(alone[at + 1], '    fetched when it is published, and not looked into before', 'nothing is here')
})

test('a compose.yaml comes before a paradrop.yaml, a file by its name, and what ParaDrop has no word for is refused', async () => {
  const dir = chute({ 'compose.yaml': 'name: one\nservices: {a: {image: x}}', 'paradrop.yaml': PARADROP })
  assert.match((await dryRun(dir)).stdout, /^one: 1 on any AP/)
  assert.match((await dryRun(join(dir, 'paradrop.yaml'))).stdout, /^board: 1 on any AP/)
  const profiled = await dryRun(join(dir, 'paradrop.yaml'), '--profile', 'x')
  assert.is(profiled.status, 1)
  assert.match(profiled.stderr, /knows no profiles/)
})

test('a manifest is found by each name that Compose looks for, in its order, and what is passed over beside it is told', async () => {
  const NAMES = ['docker-compose.yaml', 'docker-compose.yml', 'compose.yml', 'compose.yaml']
  const dir = chute({ 'docker-compose.override.yml': 'services: {a: {image: y}}' })
  assert.match((await dryRun(dir)).stderr, 'has no compose.yaml and no paradrop.yaml')
  writeFileSync(join(dir, 'compose.override.yaml'), 'services: {a: {ports: ["1:1"]}}')
  for (const [i, name] of NAMES.entries()) {
    writeFileSync(join(dir, name), `name: n${i}\nservices: {a: {image: x}}`)
    const { services, notes, ...plan } = JSON.parse((await dryRun(dir, '--json')).stdout) as PublishPlan
    assert.equal([plan.chute, services[0]!.image, services[0]!.ports], [`n${i}`, 'x', []], name)
    const laidOver = (one: string) =>
      `${join(dir, one)}:1:1: ignored: no file is laid over another here; write into ${name} what is to hold`
    assert.equal(notes, [
      ...NAMES.slice(0, i)
        .reverse()
        .map((one) => `${join(dir, one)}:1:1: ignored: ${name} comes before it`),
      ...['compose.override.yaml', 'docker-compose.override.yml'].map(laidOver),
    ])
  }
  // Nor does Compose, of a file that is named.
  assert.equal((JSON.parse((await dryRun(join(dir, 'compose.yml'), '--json')).stdout) as PublishPlan).notes, [])
})

test('folders and Dockerfiles that are not there are told all at once, beside whatever else is wrong, by a dry run and without', async () => {
  const dir = chute({
    'compose.yaml': `name: site
services:
  web: {build: ./none}
  api:
    build: {context: api, dockerfile: docker/Dockerfile}
  plain: {build: .}
  file: {build: api/README.md}
  out: {build: {context: out, dockerfile: Dockerfile}}
  odd: {build: ../odd, privileged: true}
  inline: {build: {context: api, dockerfile_inline: FROM x}}
  far: {build: "https://example.org/far"}
  off: {build: ./none, profiles: [off]}
`,
    'api/README.md': '',
    'board/paradrop.yaml': 'services: {a: {source: none}, b: {dns: ["9.9.9.9"]}}',
  })
  symlinkSync(tmpdir(), join(dir, 'out'))
  const file = join(dir, 'compose.yaml')
  for (const flags of [['--dry-run'], []]) {
    const { status, stdout, stderr } = await mesh.cli(['publish', dir, '--data', join(mesh.dir, 'none'), ...flags])
    assert.equal([status, stdout], [1, ''])
    assert.equal(
      stderr
        .trim()
        .replace(/^dropmesh: /, '')
        .split('\n'),
      [
        `${file}:3:9: services.web.build: there is no folder none in the folder of the manifest to build from`,
        `${file}:5:5: services.api.build: there is no file api/docker/Dockerfile in the folder of the manifest to build by`,
        `${file}:6:11: services.plain.build: there is no file Dockerfile in the folder of the manifest to build by`,
        `${file}:7:10: services.file.build: there is no folder api/README.md in the folder of the manifest to build from`,
        `${file}:8:9: services.out.build: out leads out of the folder of the manifest`,
        `${file}:9:9: services.odd.build: "../odd" is not a path inside the folder of the manifest`,
        `${file}:9:24: services.odd.privileged: not supported in a chute: a chute has no access to its host`,
      ],
    )
  }
  const { stderr } = await dryRun(join(dir, 'board'))
  assert.match(stderr, 'services.a.source: there is no folder none in the folder of the manifest to build from')
  assert.match(stderr, 'services.b: there is no file Dockerfile in the folder of the manifest to build by')
})

test('a link out of the folder gives no file away, and what is no text is none of the record', async () => {
  const secret = chute({ 'key.txt': 'secret' })
  const dir = chute({
    'compose.yaml': 'services: {web: {image: x, env_file: out, configs: [c]}}\nconfigs: {c: {file: bin}}',
  })
  symlinkSync(join(secret, 'key.txt'), join(dir, 'out'))
  writeFileSync(join(dir, 'bin'), new Uint8Array([0xff, 0xfe, 0x80]))
  const { status, stderr } = await dryRun(dir)
  assert.is(status, 1)
  assert.match(stderr, 'services.web.env_file: out leads out of the folder of the manifest')
  assert.match(stderr, 'configs.c.file: bin is not text: put it into the image')
})

test.run()
