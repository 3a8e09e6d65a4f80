// Light chutes of ParaDrop, published by the real command line and run by a real AP, on bases that are made here.
import { randomBytes } from 'node:crypto'
import { chmod, mkdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { buildImage, packContext } from '../../node/packages/build.js'
import { BUSYBOX, ensureBusybox } from '../support/busybox.js'
import { eventually, type TestAp, TestMesh } from '../support/mesh.js'

const mesh = new TestMesh()
const base = `dropmesh-test/light-${randomBytes(4).toString('hex')}`

test.after(async () => {
  await mesh.close()
  await mesh.docker
    .getImage(base)
    .remove({ force: true })
    .catch(() => {})
})

async function folder(name: string, files: Record<string, string>): Promise<string> {
  const dir = join(mesh.dir, name)
  await mkdir(dir, { recursive: true })
  for (const [file, text] of Object.entries(files)) {
    await writeFile(join(dir, file), text)
    await chmod(join(dir, file), 0o755)
  }
  return dir
}

/** What has the name of Python, and runs shell scripts: it says what pip was asked for. */
async function makeBase(): Promise<void> {
  await ensureBusybox(mesh.docker)
  const python = '#!/bin/sh\nif [ "$1" = -m ]; then echo "$*" >/pip; else exec sh "$@"; fi\n'
  const dir = await folder('base', { Dockerfile: `FROM ${BUSYBOX}\nCOPY python3 /bin/\n`, python3: python })
  const options = { dockerfile: 'Dockerfile', args: {}, onBaseImage: false }
  const id = await buildImage(mesh.docker, await packContext(dir), options)
  await mesh.docker.getImage(id).tag({ repo: base, tag: 'latest' })
}

const page = async (ap: TestAp, chute: string, revision: number): Promise<string> =>
  eventually(`${chute} to serve revision ${revision}`, async () => {
    const row = (await ap.instances()).find((one) => one.chute === chute && one.revision === revision)
    const port = row?.ports[0]?.host
    if (port === undefined) return false
    return (await fetch(`http://127.0.0.1:${port}/`, { signal: AbortSignal.timeout(1000) })).text()
  })

let ap: TestAp
test.before(async () => {
  await makeBase()
  ap = await mesh.add('ap1', { args: ['--light-base', `python3=${base}`] })
})

const PYTHON = `name: board
version: 1
type: light
use: python3
command: python3 -u server.py $PARADROP_CHUTE_NAME
config:
  environment: {WHO: me, PRICE: 5$}
  web: {port: 8080}
  net: {wifi: {type: wifi, intfName: wlan0, ssid: board, dhcp: {lease: 12h}}}
`
const SERVER = `cd /opt/paradrop/app
date +%s%N >>"$PARADROP_DATA_DIR/starts"
{ echo "uid $(id -u), app $(stat -c %u server.py), for $1, $WHO, $PRICE"; cat /pip; wc -l <"$PARADROP_DATA_DIR/starts"; } >/tmp/index.html
echo home >"$HOME/file" && echo "home $HOME" >>/tmp/index.html
exec httpd -f -p 8080 -h /tmp
`

test('a light chute is built on the base that its node names, runs as 999 as its files do, and keeps /data through an update', async () => {
  const dir = await folder('board', { 'paradrop.yaml': PYTHON, 'server.py': SERVER, 'requirements.txt': 'flask\n' })
  const first = await ap.cli('publish', dir)
  assert.is(first.status, 0, first.stderr)
  assert.match(first.stderr, 'config.net.wifi: ignored: an AP gives a chute no network of its own')
  assert.match(
    first.stderr,
    /use: no build has a network: what requirements\.txt asks for comes from the base, or wheels/,
  )
  const pip = '-m pip install --no-index --find-links wheels --requirement requirements.txt'
  const text = (starts: number) => `uid 999, app 999, for board, me, 5$\n${pip}\n${starts}\nhome /home/paradrop\n`
  assert.is(await page(ap, 'board', 1), text(1))

  await writeFile(join(dir, 'more'), 'another file')
  const second = await ap.cli('publish', dir)
  assert.is(second.status, 0, second.stderr)
  assert.is(await page(ap, 'board', 2), text(2), 'what the first revision wrote is there')
})

const NODE = `name: sticky
services:
  main: {type: light, image: node, command: npm start, source: .}
web: {service: main, port: 3000}
x-dropmesh: {ephemeral: true}
`
const INDEX = `require('fs').writeFileSync(process.env.PARADROP_DATA_DIR + '/file', String(process.getuid()))
require('http').createServer((_, answer) => answer.end(require('fs').readFileSync('/data/file'))).listen(3000)
`

test('a light chute of Node.js needs no base that anyone made, and starts as npm would start it', async () => {
  const dir = await folder('sticky', {
    'paradrop.yaml': NODE,
    'index.js': INDEX,
    'package.json': '{"scripts": {"start": "node index.js"}}',
  })
  const { status, stderr } = await ap.cli('publish', dir)
  assert.is(status, 0, stderr)
  assert.match(stderr, 'services.main.command: npm is not there: node index.js, as package.json says')
  assert.is(await page(ap, 'sticky', 1), '999')
})

test('a Dockerfile that a compose.yaml has in itself is built', async () => {
  const inline = `build: {context: ., dockerfile_inline: "FROM ${BUSYBOX}\\nCOPY page /www/index.html\\nCMD httpd -f -p 80 -h /www\\n"}`
  const dir = await folder('inline', {
    'compose.yaml': `name: inline\nservices:\n  web:\n    ${inline}\n    ports: [80]\n`,
    page: 'of the folder',
  })
  const { status, stderr } = await ap.cli('publish', dir)
  assert.is(status, 0, stderr)
  assert.is(await page(ap, 'inline', 1), 'of the folder')
})

test.run()
