// What `dropmesh verify` believes of a file, and of a node, that it has no reason to trust.
import { mkdirSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:http'
import { join } from 'node:path'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { hex } from '../../protocols/bytes.js'
import { type SignedRecord, seal } from '../../protocols/envelope.js'
import { meshIdOf, meshText } from '../../protocols/membership.js'
import { deployment, keyOf, MESH, NOW, record, signer } from '../protocols/support.js'
import { TestMesh } from '../support/mesh.js'

const mesh = new TestMesh() // of no AP: for its command line
const ALICE = signer(1)
const alice = hex(ALICE.publicKey)
const WEB = deployment(ALICE, 'web', [NOW, 0], { revision: 3 })
const file = join(mesh.dir, 'web.record')

const base64 = ({ bytes }: Pick<SignedRecord, 'bytes'>): string => Buffer.from(bytes).toString('base64')

function verify(content: string, chute = 'web', id = meshText(MESH), ...more: string[]) {
  writeFileSync(file, content)
  return mesh.cli(['verify', chute, '--record', file, '--mesh', id, '--data', '/nonexistent', ...more])
}

test('a good record is verified without a node, and says who signed it', async () => {
  for (const chute of ['web', `${alice}/web`, `${alice.slice(0, 6).toUpperCase()}/web`]) {
    const { status, stdout, stderr } = await verify(`${base64(WEB)}\n`, chute, meshText(MESH), '--json')
    assert.is(status, 0, stderr)
    const { signer: by, ...rest } = JSON.parse(stdout)
    assert.is(by.publisher, alice)
    assert.is(by.key, null)
    const signed = new Date(NOW).toISOString()
    assert.equal(rest, { chute: 'web', revision: 3, signed, hash: hex(WEB.hash), mesh: meshText(MESH) })
  }
})

test('nothing else is: another mesh, another chute, a changed byte, another kind, no record', async () => {
  const changed = Uint8Array.from(WEB.bytes)
  changed[changed.length - 1]! ^= 1
  const other = meshText(meshIdOf(keyOf(9)))
  const drain = record(ALICE, 'drain', ALICE.publicKey, [NOW, 0], { draining: true })
  const stolen = seal(signer(2), MESH, [NOW, 0], 'deployment', WEB.subject, WEB.body)
  for (const [content, why, chute, id] of [
    [
      base64(WEB),
      /proves nothing for mesh \w{32}: a deployment record belongs to another mesh \(\w{32}\)/,
      'web',
      other,
    ],
    [base64(WEB), /not of shop but of [0-9a-f]{12}\/web/, 'shop'],
    [base64(WEB), /not of 0000\/web but of [0-9a-f]{12}\/web/, '0000/web'],
    [base64({ bytes: changed }), /the signature of a deployment record by [0-9a-f]{64} does not verify/],
    [base64(stolen), /signer or clock does not fit/],
    [base64(drain), /a drain record, where a deployment belongs/],
    [base64(WEB).slice(0, 100), /web\.record proves nothing for mesh/],
    ['', /proves nothing for mesh/],
    [base64(WEB), /"nonsense!" is no mesh id: 32 letters and digits/, 'web', 'nonsense!'],
  ] as const) {
    const { status, stdout, stderr } = await verify(content, chute, id)
    assert.is(status, 1, stdout)
    assert.is(stdout, '')
    assert.match(stderr, why)
    assert.is(stderr.trimEnd().split('\n').length, 1, stderr)
  }
  assert.is((await mesh.cli(['verify', 'web'])).status, 2)
})

test('a node is believed no more than a file', async () => {
  const data = join(mesh.dir, 'node')
  mkdirSync(data)
  let envelope = base64(WEB)
  const node = createServer((_, response) => response.end(JSON.stringify([{ state: 'in-force', envelope }])))
  node.listen(join(data, 'dropmesh.sock'))
  try {
    const asked = () => mesh.cli(['verify', 'web', '--mesh', meshText(MESH), '--data', data])
    const good = await asked()
    assert.is(good.status, 0, good.stderr)
    assert.match(
      good.stdout,
      /^web, revision 3, is signed for mesh \w{32}\nPublisher {2}[0-9a-f]{64}\nSSH key {4}SHA256:/,
    )
    envelope = base64(deployment(signer(2), 'other', [NOW, 0]))
    const bad = await asked()
    assert.is(bad.status, 1)
    assert.match(bad.stderr, /the record is not of web but of [0-9a-f]{12}\/other/)
  } finally {
    node.close().closeAllConnections()
  }
})

test.run()
