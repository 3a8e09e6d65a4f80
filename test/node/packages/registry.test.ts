// The registry over real sockets and a real disk: as the specification wants it, with the clients that people use, and with those
// that nobody wants.
import { execFile } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { connect } from 'node:net'
import { join } from 'node:path'
import { Readable } from 'node:stream'
import { promisify } from 'node:util'
import { gunzipSync, gzipSync } from 'node:zlib'
import { pino } from 'pino'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { connectDocker, work } from '../../../node/chutes/docker-client.js'
import { BlobStore } from '../../../node/packages/blobs.js'
import type { Source } from '../../../node/packages/manifests.js'
import { digestOf, MAX_MANIFEST } from '../../../node/packages/oci.js'
import { Registry } from '../../../node/packages/registry.js'
import { collect, tarOf } from '../../../node/packages/tar.js'
import { MAX_UPLOADS } from '../../../node/packages/uploads.js'
import { BUSYBOX, ensureBusybox } from '../../support/busybox.js'
import { needTools } from '../../support/hosts.js'
import { scratch } from '../../support/scratch.js'
import { until } from '../../support/until.js'
import { type Answer, Client, descriptorOf, IMAGE, INDEX, imageOf, RegistryProcess } from './client.js'

const test = suite('registry')
const run = promisify(execFile)
const log = pino({ level: 'silent' })
const docker = connectDocker()

const needed = new Set<string>()
const dir = join(scratch('registry'), 'packages')
const closing: (() => Promise<void>)[] = []

async function open(folder: string, source?: Source): Promise<{ store: BlobStore; client: Client }> {
  const isNeeded = (digest: string) => needed.has(digest)
  const store = await BlobStore.open(folder, { maxBytes: 2 ** 40, minFree: 0, isNeeded, log })
  const registry = await Registry.open({ port: 0, store, source, log })
  closing.push(async () => {
    await registry.close()
    await store.close()
  })
  return { store, client: new Client(registry.port) }
}

const { store, client } = await open(dir)
test.after(async () => {
  for (const close of closing) await close()
})

function refused({ status, codes, body }: Answer, expected: number, code: string): void {
  assert.equal([status, codes[0]], [expected, code], String(body.subarray(0, 300)))
}

const gone = `sha256:${'0'.repeat(64)}`

// --- the specification ----------------------------------------------------------------------------------------------

test('says what it is', async () => {
  for (const path of ['/v2/', '/v2']) {
    const { status, headers } = await client.get(path)
    assert.equal([status, headers['docker-distribution-api-version']], [200, 'registry/2.0'])
  }
  refused(await client.get('/v1/status'), 404, 'UNSUPPORTED')
  refused(await client.send('PATCH', '/v2/'), 404, 'UNSUPPORTED')
})

test('takes a blob in one request, in two, and in pieces, and gives it back', async () => {
  const [one, two, three] = [randomBytes(10), randomBytes(100_000), randomBytes(300_000)]
  const first = await client.pushBlob('alice/app', one)
  assert.equal([first.status, first.headers.location], [201, `/v2/alice/app/blobs/${digestOf(one)}`])

  const put = await client.send('PUT', `${await client.beginUpload('alice/app')}?digest=${digestOf(two)}`, {}, two)
  assert.is(put.status, 201)

  const path = await client.beginUpload('alice/app')
  assert.is((await client.get(path)).headers.range, '0-0')
  const piece = (start: number, end: number) =>
    client.send('PATCH', path, { 'content-range': `${start}-${end - 1}` }, three.subarray(start, end))
  const begun = await piece(0, 100_000)
  assert.equal([begun.status, begun.headers.range], [202, '0-99999'])
  for (const start of [0, 99_999, 100_001]) {
    const answer = await piece(start, start + 5)
    refused(answer, 416, 'BLOB_UPLOAD_INVALID')
    assert.is(answer.headers.range, '0-99999')
  }
  refused(await client.send('PATCH', path, { 'content-range': '100000-100009' }, 'x'), 400, 'SIZE_INVALID')
  refused(await client.send('PATCH', path, { 'content-range': 'bytes 100000-' }, 'x'), 416, 'BLOB_UPLOAD_INVALID')
  const status = await client.get(path)
  assert.equal([status.status, status.headers.range, status.headers.location], [204, '0-99999', path])
  assert.is((await piece(100_000, 200_000)).status, 202)
  const end = await client.send(
    'PUT',
    `${path}?digest=${digestOf(three)}`,
    { 'content-range': '200000-299999' },
    three.subarray(200_000),
  )
  assert.is(end.status, 201)
  refused(await client.get(path), 404, 'BLOB_UPLOAD_UNKNOWN')

  for (const content of [one, two, three]) {
    const { status, headers, body } = await client.get(`/v2/alice/app/blobs/${digestOf(content)}`)
    assert.equal([status, headers['docker-content-digest']], [200, digestOf(content)])
    assert.equal(body, content)
  }
})

test('gives ranges, and the size without the content', async () => {
  const content = randomBytes(1000)
  await client.pushBlob('alice/app', content)
  const path = `/v2/alice/app/blobs/${digestOf(content)}`
  const head = await client.send('HEAD', path)
  assert.equal([head.status, head.headers['content-length'], head.body.length], [200, '1000', 0])
  for (const [range, start, end] of [
    ['bytes=0-0', 0, 1],
    ['bytes=10-19', 10, 20],
    ['bytes=990-', 990, 1000],
    ['bytes=990-5000', 990, 1000],
    ['bytes=-10', 990, 1000],
    ['bytes=-5000', 0, 1000],
  ] as const) {
    const { status, headers, body } = await client.get(path, { range })
    assert.equal([status, headers['content-range']], [206, `bytes ${start}-${end - 1}/1000`], range)
    assert.equal(body, content.subarray(start, end), range)
  }
  for (const range of ['bytes=5-3', 'bytes=1-2,4-5', 'lines=1-2', 'bytes=-']) {
    assert.is((await client.get(path, { range })).body.length, 1000, range)
  }
  for (const range of ['bytes=1000-', 'bytes=-0']) {
    const answer = await client.get(path, { range })
    assert.equal([answer.status, answer.headers['content-range']], [416, 'bytes */1000'], range)
  }
  assert.is((await client.pushBlob('alice/app', Buffer.alloc(0))).status, 201)
  assert.is((await client.get(`/v2/alice/app/blobs/${digestOf(Buffer.alloc(0))}`)).body.length, 0)
})

test('mounts what is here, and begins an upload for what is not', async () => {
  const content = randomBytes(10)
  await client.pushBlob('alice/app', content)
  const mounted = await client.send('POST', `/v2/bob/app/blobs/uploads/?mount=${digestOf(content)}&from=alice/app`)
  assert.equal([mounted.status, mounted.headers.location], [201, `/v2/bob/app/blobs/${digestOf(content)}`])
  const other = await client.send('POST', `/v2/bob/app/blobs/uploads/?mount=${gone}&from=alice/app`)
  assert.is(other.status, 202)
  assert.is((await client.send('DELETE', other.headers.location!)).status, 204)
  refused(await client.get(other.headers.location!), 404, 'BLOB_UPLOAD_UNKNOWN')
})

test('takes manifests by tag and by digest, byte for byte', async () => {
  const { digest } = await client.pushImage('alice/web', 'v1')
  for (const reference of ['v1', digest]) {
    for (const method of ['GET', 'HEAD']) {
      const { status, headers, body } = await client.send(method, `/v2/alice/web/manifests/${reference}`)
      assert.equal([status, headers['content-type'], headers['docker-content-digest']], [200, IMAGE, digest])
      if (method === 'GET') assert.is(digestOf(body), digest)
      else assert.ok(Number(headers['content-length']) > 100)
    }
  }
  refused(await client.get('/v2/alice/web/manifests/v2'), 404, 'MANIFEST_UNKNOWN')
  refused(await client.get(`/v2/alice/web/manifests/${gone}`), 404, 'MANIFEST_UNKNOWN')
  // What is no manifest is not given as one.
  const blob = randomBytes(10)
  await client.pushBlob('alice/web', blob)
  refused(await client.get(`/v2/alice/web/manifests/${digestOf(blob)}`), 404, 'MANIFEST_UNKNOWN')
})

test('refuses manifests that are none, and those without what they refer to', async () => {
  const config = Buffer.from('{}')
  await client.pushBlob('alice/app', config)
  const part = descriptorOf(config)
  const good = imageOf(part, [])
  const lacking = descriptorOf(randomBytes(9))
  const refuse = async (manifest: object | string, status = 400, code = 'MANIFEST_INVALID', type = IMAGE) =>
    refused(await client.pushManifest('alice/app', 'bad', manifest, type), status, code)
  await refuse(imageOf(part, [lacking]), 404, 'MANIFEST_BLOB_UNKNOWN')
  await refuse(imageOf(lacking, []), 404, 'MANIFEST_BLOB_UNKNOWN')
  for (const wrong of [
    '',
    'not json',
    'null',
    '[]',
    '"text"',
    { ...good, schemaVersion: 1 },
    { ...good, layers: undefined },
    { ...good, config: { ...part, digest: '../../../etc/passwd' } },
    { ...good, config: { ...part, size: -1 } },
    { ...good, manifests: [] },
    { ...good, mediaType: INDEX },
    { ...good, mediaType: { toString: 'x' } },
    { ...good, annotations: { a: 1 } },
  ]) {
    await refuse(wrong)
  }
  await refuse({ ...good, mediaType: undefined }, 400, 'MANIFEST_INVALID', 'text/plain')
  await refuse({ ...good, mediaType: undefined }, 400, 'MANIFEST_INVALID', '__proto__')
  refused(await client.pushManifest('alice/app', gone, good), 400, 'DIGEST_INVALID')
  // Layers that lie elsewhere by their own word need not be here.
  const foreign = { ...lacking, urls: ['https://example.org/layer'] }
  assert.is((await client.pushManifest('alice/app', 'good', imageOf(part, [foreign]))).status, 201)
})

test('keeps an index of several architectures, of which one is here', async () => {
  const { digest } = await client.pushImage('alice/multi')
  const child = (digest: string, architecture: string) => ({
    mediaType: IMAGE,
    digest,
    size: 400,
    platform: { os: 'linux', architecture },
  })
  const index = (...manifests: object[]) => ({ schemaVersion: 2, mediaType: INDEX, manifests })
  const none = await client.pushManifest('alice/multi', 'all', index(child(gone, 'arm64')), INDEX)
  refused(none, 404, 'MANIFEST_BLOB_UNKNOWN')
  const whole = index(child(digest, 'amd64'), child(gone, 'arm64'))
  assert.is((await client.pushManifest('alice/multi', 'all', whole, INDEX)).status, 201)
  const { headers, body } = await client.get('/v2/alice/multi/manifests/all')
  assert.is(headers['content-type'], INDEX)
  assert.equal(JSON.parse(String(body)), whole)
  assert.is((await client.pushManifest('alice/multi', 'none', index(), INDEX)).status, 201)
})

test('lists tags and repositories in order, a page at a time', async () => {
  const { digest } = await client.pushImage('list/a-b', 'c')
  const manifest = String((await client.get(`/v2/list/a-b/manifests/${digest}`)).body)
  for (const [name, tag] of [
    ['list/a-b', 'B'],
    ['list/a-b', 'a.1'],
    ['list/a', 'x'],
    ['list/a/b', 'x'],
  ] as const) {
    assert.is((await client.pushManifest(name, tag, manifest)).status, 201)
  }
  const json = async (path: string) => {
    const { headers, body } = await client.get(path)
    return { ...JSON.parse(String(body)), link: headers.link } as {
      tags: string[]
      repositories: string[]
      link?: string
    }
  }
  assert.equal((await json('/v2/list/a-b/tags/list')).tags, ['B', 'a.1', 'c'])
  const seen: string[] = []
  for (let path: string | undefined = '/v2/list/a-b/tags/list?n=1'; path !== undefined; ) {
    const { tags, link } = await json(path)
    assert.is(tags.length, 1)
    seen.push(...tags)
    path = /^<(.+)>; rel="next"$/.exec(link ?? '')?.[1]
  }
  assert.equal(seen, ['B', 'a.1', 'c'])
  assert.equal(await json('/v2/list/a-b/tags/list?n=0'), { name: 'list/a-b', tags: [], link: undefined })
  assert.equal((await json('/v2/list/a-b/tags/list?last=a.1')).tags, ['c'])
  assert.equal((await json('/v2/list/a-b/tags/list?last=zz')).tags, [])
  assert.equal((await json('/v2/_catalog?n=3&last=bob/zzz')).repositories, ['list/a', 'list/a-b', 'list/a/b'])
  refused(await client.get('/v2/list/nobody/tags/list'), 404, 'NAME_UNKNOWN')
  for (const query of ['n=-1', 'n=x', 'last=!']) {
    refused(await client.get(`/v2/list/a-b/tags/list?${query}`), 400, 'UNSUPPORTED')
  }
})

test('lists what says something of a manifest', async () => {
  const { digest: subject } = await client.pushImage('alice/signed', 'v1')
  const about = { subject: { mediaType: IMAGE, digest: subject, size: 1 } }
  const signature = { ...about, artifactType: 'text/signature', annotations: { by: 'alice' } }
  const { digest: signed } = await client.pushImage('alice/signed', undefined, signature)
  const { digest: plain } = await client.pushImage('alice/signed', undefined, about)
  const list = async (query = '') => {
    const answer = await client.get(`/v2/alice/signed/referrers/${subject}${query}`)
    assert.equal([answer.status, answer.headers['content-type']], [200, INDEX])
    const { manifests } = JSON.parse(String(answer.body)) as { manifests: Record<string, unknown>[] }
    return { manifests, applied: answer.headers['oci-filters-applied'] }
  }
  const all = (await list()).manifests
  assert.equal(all.map(({ digest }) => digest).sort(), [signed, plain].sort())
  const { manifests, applied } = await list('?artifactType=text/signature')
  assert.equal([manifests.length, applied], [1, 'artifactType'])
  assert.equal(manifests[0]!.annotations, { by: 'alice' })
  assert.equal(manifests[0]!.artifactType, 'text/signature')
  assert.is(all.find(({ digest }) => digest === plain)!.artifactType, 'application/octet-stream')
  const early = await client.pushManifest('alice/signed', 'early', {
    ...imageOf(descriptorOf(Buffer.from('{}')), []),
    subject: { mediaType: IMAGE, digest: gone, size: 1 },
  })
  assert.equal([early.status, early.headers['oci-subject']], [201, gone])
  assert.is((await client.send('DELETE', `/v2/alice/signed/manifests/${signed}`)).status, 202)
  assert.equal(
    (await list()).manifests.map(({ digest }) => digest),
    [plain],
  )
  const empty = await client.get(`/v2/nobody/referrers/${gone}`)
  assert.equal([empty.status, JSON.parse(String(empty.body)).manifests], [200, []])
  refused(await client.get('/v2/nobody/referrers/sha256:x'), 400, 'DIGEST_INVALID')
})

test('deletes tags, manifests and blobs, but nothing that a tag or an instance needs', async () => {
  const { digest, layer } = await client.pushImage('alice/rm', 'v1')
  await client.pushManifest('alice/rm', 'v2', String((await client.get('/v2/alice/rm/manifests/v1')).body))
  const remove = (path: string) => client.send('DELETE', `/v2/alice/rm/${path}`)
  refused(await remove(`blobs/${layer}`), 405, 'UNSUPPORTED')
  assert.is((await remove('manifests/v1')).status, 202)
  refused(await remove('manifests/v1'), 404, 'MANIFEST_UNKNOWN')
  assert.is((await client.get('/v2/alice/rm/manifests/v2')).status, 200)
  needed.add(digest)
  assert.is((await remove(`manifests/${digest}`)).status, 202)
  refused(await client.get('/v2/alice/rm/manifests/v2'), 404, 'MANIFEST_UNKNOWN')
  assert.is((await client.get(`/v2/alice/rm/manifests/${digest}`)).status, 200)
  refused(await remove(`blobs/${layer}`), 405, 'UNSUPPORTED')
  needed.clear()
  assert.is((await remove(`manifests/${digest}`)).status, 202)
  refused(await client.get(`/v2/alice/rm/manifests/${digest}`), 404, 'MANIFEST_UNKNOWN')
  assert.is((await remove(`blobs/${layer}`)).status, 202)
  refused(await remove(`blobs/${layer}`), 404, 'BLOB_UNKNOWN')
})

// --- peers ----------------------------------------------------------------------------------------------------------

test('passes on what only peers have while it comes, and takes a manifest only when it is all here', async () => {
  const content = randomBytes(200_000)
  const digest = digestOf(content)
  const config = Buffer.from('{"far":true}')
  const manifest = Buffer.from(JSON.stringify(imageOf(descriptorOf(config), [descriptorOf(content)])))
  let more = () => {}
  let isSlow = true
  const blobs = new Map([content, config].map((bytes) => [digestOf(bytes), bytes]))
  const near = await open(join(scratch('near'), 'packages'), {
    async blob(digest) {
      const bytes = blobs.get(digest)
      if (bytes === undefined) return undefined
      return {
        size: bytes.length,
        async *read(start, end) {
          yield bytes.subarray(start, Math.min(end, start + 50_000))
          if (isSlow)
            await new Promise<void>((resolve) => {
              more = resolve
            })
          if (start + 50_000 < end) yield bytes.subarray(start + 50_000, end)
          if (end - start === bytes.length) await near.store.write(digest, Readable.from([bytes]))
        },
      }
    },
    manifest: async (digest) => (digest === digestOf(manifest) ? manifest : undefined),
  })
  const path = `/v2/alice/far/blobs/${digest}`
  assert.is((await near.client.send('HEAD', path)).headers['content-length'], '200000')
  const answer = await near.client.begin('GET', path)
  const chunks: Uint8Array[] = []
  answer.on('data', (chunk: Uint8Array) => chunks.push(chunk))
  await until('the beginning, while the rest is with peers', () => Buffer.concat(chunks).length === 50_000)
  isSlow = false
  more()
  await until('the rest', () => answer.complete)
  assert.equal(Buffer.concat(chunks), content)
  await until('it to be kept', () => near.store.has(digest))
  const part = await near.client.get(`/v2/alice/far/blobs/${digestOf(config)}`, { range: 'bytes=2-4' })
  assert.equal([part.status, String(part.body)], [206, 'far'])

  assert.is((await near.client.get(`/v2/alice/far/manifests/${digestOf(manifest)}`)).status, 200)
  assert.ok(near.store.has(digestOf(manifest)))
  assert.not.ok(near.store.has(digestOf(config)))
  assert.is((await near.client.pushManifest('alice/far', 'v1', String(manifest))).status, 201)
  assert.ok(near.store.has(digestOf(config)))
  refused(await near.client.get(`/v2/alice/far/blobs/${gone}`), 404, 'BLOB_UNKNOWN')
})

test('a source that gives too little, too much, or another manifest is not believed', async () => {
  const claimed = randomBytes(100)
  let given = 99
  const { client } = await open(join(scratch('liar'), 'packages'), {
    blob: async () => ({
      size: 100,
      async *read() {
        yield randomBytes(given)
      },
    }),
    manifest: async () => Buffer.from(JSON.stringify(imageOf(descriptorOf(claimed), []))),
  })
  for (given of [99, 101]) {
    // Of two requests on one connection the second gets no answer: it would be taken for the rest of the first.
    const socket = connect(client.port, '127.0.0.1')
    const request = (path: string) => `GET ${path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n`
    socket.write(request(`/v2/a/blobs/${digestOf(claimed)}`) + request('/v2/'))
    const chunks: Uint8Array[] = []
    socket.on('data', (chunk) => chunks.push(chunk)).on('error', () => {})
    await until('the connection to end', () => socket.destroyed)
    const answers = String(Buffer.concat(chunks)).split('HTTP/1.1 ').length - 1
    assert.ok(answers <= 1, `${given} bytes end the connection`)
  }
  refused(await client.get(`/v2/a/manifests/${gone}`), 404, 'MANIFEST_UNKNOWN')
  refused(await client.pushManifest('a', 'x', imageOf(descriptorOf(claimed), [])), 404, 'MANIFEST_BLOB_UNKNOWN')
})

// --- the clients of people ------------------------------------------------------------------------------------------

async function push(name: string, tag: string): Promise<string> {
  const reference = `127.0.0.1:${client.port}/${name}`
  await docker.getImage(BUSYBOX).tag({ repo: reference, tag })
  const image = docker.getImage(`${reference}:${tag}`)
  // The engine wants the header even where there is nothing to say.
  await work('push', null, () => image.push({ authconfig: { username: '', password: '', serveraddress: '' } }))
  await image.remove()
  return reference
}

test('docker pushes, and pulls by tag and by digest', async () => {
  const id = await ensureBusybox(docker)
  const reference = await push('alice/docker', 'v1')
  const { headers } = await client.send('HEAD', '/v2/alice/docker/manifests/v1')
  for (const pulled of [`${reference}:v1`, `${reference}@${headers['docker-content-digest']}`]) {
    await work('pull', null, () => docker.pull(pulled))
    assert.is((await docker.getImage(pulled).inspect()).Id, id)
    await docker.getImage(pulled).remove()
  }
})

test('docker pulls an image that it does not have, and runs it', async () => {
  await ensureBusybox(docker)
  const file = randomBytes(20_000).toString('hex')
  const context = tarOf(
    [
      ['Dockerfile', `FROM ${BUSYBOX}\nCOPY file /file\n`],
      ['file', file],
    ].map(([name, text]) => ({ name: name!, size: text!.length, body: [Buffer.from(text!)] })),
  )
  const reference = `127.0.0.1:${client.port}/alice/run:v1`
  await work('build', context, (body) => docker.buildImage(body, { t: reference }))
  const image = docker.getImage(reference)
  await work('push', null, () => image.push({ authconfig: { username: '', password: '', serveraddress: '' } }))
  await image.remove()
  await work('pull', null, () => docker.pull(reference))
  const container = await docker.createContainer({
    Image: reference,
    Cmd: ['sha256sum', '/file'],
    Labels: { 'dropmesh.test': 'registry' },
  })
  await container.start()
  assert.is((await container.wait()).StatusCode, 0)
  const said = String(await container.logs({ stdout: true }))
  await container.remove()
  await image.remove()
  assert.match(said, digestOf(Buffer.from(file)).slice(7))
})

test('skopeo copies to it, from it, within it, and deletes', async () => {
  needTools(['skopeo'])
  await ensureBusybox(docker)
  await push('alice/skopeo', 'v1')
  const at = (name: string) => `docker://127.0.0.1:${client.port}/${name}`
  const skopeo = async (...args: string[]) => (await run('skopeo', args)).stdout
  const folder = join(scratch('skopeo'), 'image')
  const plain = ['--src-tls-verify=false', '--dest-tls-verify=false']
  await skopeo('copy', ...plain, at('alice/skopeo:v1'), `dir:${folder}`)
  await skopeo('copy', ...plain, `dir:${folder}`, at('bob/skopeo:v2'))
  await skopeo('copy', ...plain, '--format', 'oci', at('bob/skopeo:v2'), at('bob/skopeo:oci'))
  assert.equal(JSON.parse(await skopeo('list-tags', '--tls-verify=false', at('bob/skopeo'))).Tags, ['oci', 'v2'])
  const { Digest } = JSON.parse(await skopeo('inspect', '--tls-verify=false', at('bob/skopeo:v2')))
  assert.is(Digest, digestOf(readFileSync(join(folder, 'manifest.json'))))
  await skopeo('delete', '--tls-verify=false', at('bob/skopeo:oci'))
  assert.equal(JSON.parse(await skopeo('list-tags', '--tls-verify=false', at('bob/skopeo'))).Tags, ['v2'])
})

test('skopeo copies an image of several architectures whole, and finds each of them', async () => {
  needTools(['skopeo'])
  const layer = gzipSync(await collect(tarOf([{ name: 'empty', size: 0, body: [] }])))
  const manifests: object[] = []
  for (const architecture of ['amd64', 'arm64']) {
    const rootfs = { type: 'layers', diff_ids: [digestOf(gunzipSync(layer))] }
    const config = Buffer.from(JSON.stringify({ architecture, os: 'linux', config: {}, rootfs }))
    for (const blob of [config, layer]) await client.pushBlob('alice/multi', blob)
    const oci = 'application/vnd.oci.image'
    const image = imageOf(descriptorOf(config, `${oci}.config.v1+json`), [
      descriptorOf(layer, `${oci}.layer.v1.tar+gzip`),
    ])
    const bytes = Buffer.from(JSON.stringify(image))
    assert.is((await client.pushManifest('alice/multi', digestOf(bytes), String(bytes))).status, 201)
    manifests.push({ ...descriptorOf(bytes, IMAGE), platform: { os: 'linux', architecture } })
  }
  const index = { schemaVersion: 2, mediaType: INDEX, manifests }
  assert.is((await client.pushManifest('alice/multi', 'v1', index, INDEX)).status, 201)
  const at = (name: string) => `docker://127.0.0.1:${client.port}/${name}`
  const plain = ['--src-tls-verify=false', '--dest-tls-verify=false']
  await run('skopeo', ['copy', '--all', ...plain, at('alice/multi:v1'), at('bob/multi:v2')])
  const { body } = await client.get('/v2/bob/multi/manifests/v2')
  assert.equal(JSON.parse(String(body)), index)
  for (const architecture of ['amd64', 'arm64']) {
    const args = ['--override-arch', architecture, 'inspect', '--tls-verify=false', at('bob/multi:v2')]
    assert.is(JSON.parse((await run('skopeo', args)).stdout).Architecture, architecture)
  }
})

test('podman pulls from it, and pushes to it', async () => {
  needTools(['podman'])
  const id = await ensureBusybox(docker)
  await push('alice/podman', 'v1')
  const at = (name: string) => `127.0.0.1:${client.port}/${name}`
  const folder = scratch('podman')
  const own = ['--root', join(folder, 'root'), '--runroot', join(folder, 'run'), '--storage-driver', 'vfs']
  const podman = async (...args: string[]) =>
    (await run('podman', [...own, '--cgroup-manager', 'cgroupfs', ...args])).stdout
  const pull = (name: string) => podman('pull', '--quiet', '--tls-verify=false', at(name))
  assert.is(`sha256:${(await pull('alice/podman:v1')).trim()}`, id)
  await podman('push', '--tls-verify=false', at('alice/podman:v1'), at('bob/podman:v2'))
  await podman('rmi', '--all', '--force')
  assert.is(`sha256:${(await pull('bob/podman:v2')).trim()}`, id)
  await podman('rmi', '--all', '--force')
})

test('containerd, whose store newer engines keep their images in, pulls from it and pushes to it', async () => {
  await ensureBusybox(docker)
  await push('alice/containerd', 'v1')
  const sockets = ['/run/containerd/containerd.sock', '/run/docker/containerd/containerd.sock']
  const socket = sockets.find((path) => existsSync(path))
  assert.ok(socket, `the engine's containerd listens at none of ${sockets.join(', ')}`)
  const namespace = 'dropmesh-test-registry'
  const ctr = (...args: string[]) => run('ctr', ['--address', socket, '--namespace', namespace, ...args])
  const at = (name: string) => `127.0.0.1:${client.port}/${name}`
  const digestAt = async (name: string) => (await client.send('HEAD', `/v2/${name}`)).headers['docker-content-digest']
  try {
    await ctr('images', 'pull', '--plain-http', at('alice/containerd:v1'))
    await ctr('images', 'tag', at('alice/containerd:v1'), at('bob/containerd:v2'))
    await ctr('images', 'push', '--plain-http', at('bob/containerd:v2'))
    assert.is(await digestAt('bob/containerd/manifests/v2'), await digestAt('alice/containerd/manifests/v1'))
  } finally {
    await ctr('images', 'rm', '--sync', at('alice/containerd:v1'), at('bob/containerd:v2')).catch(() => {})
    await ctr('namespaces', 'rm', namespace).catch(() => {})
  }
})

// --- the clients of nobody ------------------------------------------------------------------------------------------

test('names, digests and uploads lead to no other path', async () => {
  const before = readdirSync(dir).sort()
  for (const name of [
    '..',
    '../..',
    '%2e%2e',
    '%2e%2e%2f%2e%2e',
    'a/../../b',
    'a%2f..%2fb',
    'A',
    'a//b',
    'a/',
    '-a',
    'a%00b',
    'a!b',
  ]) {
    for (const path of ['blobs/uploads/', `blobs/${gone}`, 'manifests/latest', 'tags/list']) {
      const method = path.endsWith('/') ? 'POST' : 'GET'
      const { status } = await client.send(method, `/v2/${name}/${path}`)
      assert.ok(status === 400 || status === 404, `${method} ${name} ${path}: ${status}`)
    }
  }
  const long = `${'a/'.repeat(200)}a`
  refused(await client.get(`/v2/${long}/tags/list`), 400, 'NAME_INVALID')
  for (const digest of [
    'sha256:..%2f..%2f..%2f..%2fetc%2fpasswd',
    `sha256:${'A'.repeat(64)}`,
    `sha256:${'a'.repeat(63)}`,
    `sha512:${'a'.repeat(128)}`,
    'sha256:',
    '..',
  ]) {
    for (const method of ['GET', 'HEAD', 'DELETE']) {
      const { status } = await client.send(method, `/v2/alice/app/blobs/${digest}`)
      assert.ok(status === 400 || status === 404, `${method} ${digest}: ${status}`)
    }
    refused(await client.pushBlob('alice/app', randomBytes(5), digest), 400, 'DIGEST_INVALID')
    const mount = await client.send('POST', `/v2/alice/app/blobs/uploads/?mount=${digest}`)
    refused(mount, 400, 'DIGEST_INVALID')
  }
  for (const id of ['..%2f..%2findex%2fCURRENT', '..', 'x']) {
    const { status } = await client.send('PATCH', `/v2/alice/app/blobs/uploads/${id}`, {}, 'x')
    assert.is(status, 404)
  }
  assert.equal(readdirSync(dir).sort(), before)
})

test('what is cut short, or is not what it is named for, is not there, and its space is free again', async () => {
  const content = randomBytes(500_000)
  const digest = digestOf(content)
  refused(await client.pushBlob('alice/app', content, gone), 400, 'DIGEST_INVALID')
  const before = store.totals()
  const socket = connect(client.port, '127.0.0.1')
  socket.write(
    `POST /v2/alice/app/blobs/uploads/?digest=${digest} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 500000\r\n\r\n`,
  )
  socket.write(content.subarray(0, 400_000))
  await until('some of it to come', () => store.totals().uploadBytes >= before.uploadBytes + 100_000)
  socket.destroy()
  await until('the upload to be gone', () => store.totals().uploads === before.uploads)
  assert.equal(store.totals(), before)
  refused(await client.get(`/v2/alice/app/blobs/${digest}`), 404, 'BLOB_UNKNOWN')
  // An upload that can be gone on with keeps what came, and nothing of it can be had.
  const path = await client.beginUpload('alice/app')
  const half = (async function* () {
    yield content.subarray(0, 300_000)
    await until('some of it to come', async () => (await client.get(path)).headers.range !== '0-0')
    throw new Error('the cable')
  })()
  await client.send('PATCH', path, {}, half).catch(() => {})
  refused(await client.get(`/v2/alice/app/blobs/${digest}`), 404, 'BLOB_UNKNOWN')
  const received = await until('no request to append any more', async () => {
    const end = Number((await client.get(path)).headers.range!.slice(2)) + 1
    const { status } = await client.send('PATCH', path, { 'content-range': `${end}-499999` }, content.subarray(end))
    return status === 202 && end
  })
  assert.ok(received > 0 && received <= 300_000)
  assert.is((await client.send('PUT', `${path}?digest=${digest}`)).status, 201)
  assert.equal((await client.get(`/v2/alice/app/blobs/${digest}`)).body, content)
})

test('ten thousand open uploads are refused beyond the bound, and what is there goes on', async () => {
  const { store, client } = await open(join(scratch('many'), 'packages'))
  const path = await client.beginUpload('alice/app')
  const count: Record<number, number> = {}
  for (let round = 0; round < 100; round++) {
    const answers = await Promise.all(
      Array.from({ length: 100 }, () => client.send('POST', '/v2/alice/app/blobs/uploads/')),
    )
    for (const { status, codes } of answers) {
      count[status] = (count[status] ?? 0) + 1
      if (status !== 202) assert.equal(codes, ['TOOMANYREQUESTS'])
    }
  }
  assert.equal(count, { 202: MAX_UPLOADS - 1, 429: 10_000 - MAX_UPLOADS + 1 })
  assert.is(store.totals().uploads, MAX_UPLOADS)
  const content = randomBytes(1000)
  assert.is((await client.send('PUT', `${path}?digest=${digestOf(content)}`, {}, content)).status, 201)
})

test('who sends slowly holds up nobody, and only so many manifests are waited for', async () => {
  const sockets = (count: number, head: string) =>
    Array.from({ length: count }, () => {
      const socket = connect(client.port, '127.0.0.1')
      socket.on('error', () => {})
      socket.write(`${head} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: ${IMAGE}\r\nContent-Length: 1000\r\n\r\n{`)
      return socket
    })
  const before = store.totals().uploads
  const slow = sockets(100, `POST /v2/alice/app/blobs/uploads/?digest=${gone}`)
  await until('all of them to have begun', () => store.totals().uploads === before + 100)
  const { digest } = await client.pushImage('alice/quick', 'v1')
  assert.is((await client.get(`/v2/alice/quick/manifests/${digest}`)).status, 200)
  slow.push(...sockets(8, 'PUT /v2/alice/app/manifests/slow'))
  const refusal = await until('a manifest to be refused', async () => {
    const answer = await client.pushManifest('alice/app', 'x', '{}')
    return answer.status !== 400 && answer
  })
  refused(refusal, 429, 'TOOMANYREQUESTS')
  assert.is(refusal.headers['retry-after'], '60')
  for (const socket of slow) socket.destroy()
  await until('their places to be free', () => store.totals().uploads === before)
  await client.pushImage('alice/quick', 'v2')
})

test('a manifest that is huge, or has parts or nests without end, is refused, and takes no memory to speak of', async () => {
  refused(await client.pushManifest('alice/app', 'x', 'x'.repeat(MAX_MANIFEST + 1)), 413, 'MANIFEST_INVALID')
  const endless = (async function* () {
    for (let i = 0; i < 80; i++) yield Buffer.alloc(65536, '[')
  })()
  const answer = await client.send('PUT', '/v2/alice/app/manifests/x', { 'content-type': IMAGE }, endless)
  refused(answer, 413, 'MANIFEST_INVALID')
  const config = Buffer.from('{}')
  await client.pushBlob('alice/app', config)
  const nested = (depth: number) =>
    JSON.stringify(imageOf(descriptorOf(config), [])).replace('{', `{"x":${'['.repeat(depth)}${']'.repeat(depth)},`)
  assert.is((await client.pushManifest('alice/app', 'x', nested(10))).status, 201)
  refused(await client.pushManifest('alice/app', 'x', nested(1_000_000)), 400, 'MANIFEST_INVALID')
  const layers = (count: number) =>
    JSON.stringify(imageOf(descriptorOf(config), Array(count).fill(descriptorOf(config))))
  assert.is((await client.pushManifest('alice/app', 'x', layers(5000))).status, 201)
  refused(await client.pushManifest('alice/app', 'x', layers(6000)), 400, 'MANIFEST_INVALID')
  const odd = { schemaVersion: 2, mediaType: { toString: 1, valueOf: 1 } }
  refused(await client.pushManifest('alice/app', 'x', JSON.stringify(odd)), 400, 'MANIFEST_INVALID')
  const text = JSON.stringify({ ...imageOf(descriptorOf(config), []), annotations: { a: '["'.repeat(1000) } })
  assert.is((await client.pushManifest('alice/app', 'x', text)).status, 201, 'brackets in a text do not nest')
})

test('memory does not grow with a blob: one of zeros, which bombs are made of, is taken and given as it is', async () => {
  const size = 256 * 2 ** 20
  const zeros = async function* () {
    const chunk = Buffer.alloc(2 ** 20)
    for (let sent = 0; sent < size; sent += chunk.length) yield chunk
  }
  const own = await RegistryProcess.start(join(scratch('zeros'), 'packages'))
  const resident = () => Number(/VmHWM:\s+(\d+)/.exec(readFileSync(`/proc/${own.child.pid}/status`, 'utf8'))![1]) * 1024
  try {
    const before = resident()
    const path = await own.beginUpload('alice/app')
    await own.send('PATCH', path, {}, zeros())
    const digest = 'sha256:a6d72ac7690f53be6ae46ba88506bd97302a093f7108472bd9efc3cefda06484'
    assert.is((await own.send('PUT', `${path}?digest=${digest}`)).status, 201)
    let received = 0
    for await (const chunk of await own.begin('GET', `/v2/a/blobs/${digest}`)) received += (chunk as Buffer).length
    assert.is(received, size)
    assert.ok(resident() - before < 96 * 2 ** 20, `${(resident() - before) / 2 ** 20} MiB more`)
  } finally {
    await own.kill()
  }
})

test('web pages cannot reach it', async () => {
  refused(await client.get('/v2/', { host: 'evil.example:5000' }), 403, 'DENIED')
  refused(await client.get('/v2/', { origin: 'https://evil.example' }), 403, 'DENIED')
  assert.is((await client.get('/v2/', { host: `localhost:${client.port}` })).status, 200)
})

// --- crashes --------------------------------------------------------------------------------------------------------

test('killed in the middle of a push, it serves nothing half, has all it acknowledged, and goes on with the push', async () => {
  const folder = join(scratch('killed'), 'packages')
  let own = await RegistryProcess.start(folder)
  const acknowledged: string[] = []
  const content = randomBytes(2_000_000)
  for (let round = 0; round < 3; round++) {
    acknowledged.push((await own.pushImage('alice/app', `v${round}`)).digest)
    const path = await own.beginUpload('alice/app')
    assert.is((await own.send('PATCH', path, {}, content.subarray(0, 500_000))).status, 202)
    const half = (async function* () {
      yield content.subarray(500_000, 1_500_000)
      await new Promise(() => {})
    })()
    void own.send('PATCH', path, {}, half).catch(() => {})
    await until(
      'some of it to lie on the disk',
      async () => Number((await own.get(path)).headers.range!.slice(2)) > 600_000,
    )
    await own.kill()
    own = await RegistryProcess.start(folder)
    for (const [i, digest] of acknowledged.entries()) {
      const { headers, body } = await own.get(`/v2/alice/app/manifests/v${i}`)
      assert.is(headers['docker-content-digest'], digest)
      const { layers } = JSON.parse(String(body)) as { layers: { digest: string }[] }
      for (const layer of layers) {
        assert.is(digestOf((await own.get(`/v2/alice/app/blobs/${layer.digest}`)).body), layer.digest)
      }
    }
    refused(await own.get(`/v2/alice/app/blobs/${digestOf(content)}`), 404, 'BLOB_UNKNOWN')
    if (round < 2) continue
    const end = Number((await own.get(path)).headers.range!.slice(2)) + 1
    const rest = { 'content-range': `${end}-${content.length - 1}` }
    assert.is((await own.send('PATCH', path, rest, content.subarray(end))).status, 202)
    assert.is((await own.send('PUT', `${path}?digest=${digestOf(content)}`)).status, 201)
    assert.equal((await own.get(`/v2/alice/app/blobs/${digestOf(content)}`)).body, content)
  }
  await own.kill()
})

test.run()
