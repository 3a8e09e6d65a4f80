// The registry of this AP: the OCI distribution API (v1.1), on the loopback interface alone. The engine of this AP pulls from
// it, and people push to it with the tools they know. What it lacks it asks `source` for, and passes on while it comes.
//
// Blobs and manifests are one pool, whatever repository they were pushed to: a digest says all about what it names, every
// member of the mesh may have every image, and nobody here is anyone in particular. So a mount never needs its `from`, and a
// repository is nothing but names: its tags, and which of its manifests are about others.
import { once } from 'node:events'
import type { Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { createAdaptorServer, type HttpBindings } from '@hono/node-server'
import { RESPONSE_ALREADY_SENT } from '@hono/node-server/utils/response'
import { type Context, Hono } from 'hono'
import type { Logger } from 'pino'
import { MeshError, messageOf } from '../../protocols/error.js'
import { foreignness } from '../api/origin.js'
import type { BlobStore } from './blobs.js'
import { Incomplete, Manifests, type Source } from './manifests.js'
import { digestOf, INDEX, isDigest, isName, isTag, MAX_MANIFEST, readManifest } from './oci.js'

export interface RegistryOptions {
  /** 0 for a free one. */
  port: number
  store: BlobStore
  source?: Source
  /** What must resolve before the last bytes of a blob leave, for those who ask for it in this repository. */
  hold?: (name: string) => ((digest: string) => Promise<void>) | undefined
  log: Logger
}

type Ask = Context<{ Bindings: HttpBindings }>

/** Milliseconds without a byte, either way, after which a connection ends. A peer may be slow to give what is asked for. */
const MAX_SILENCE = 60_000

/** Milliseconds in which the head of a request must come, and all of a manifest. */
const DEADLINE = 10_000

const MAX_CONNECTIONS = 512

/** Manifests that are received at the same time: they are in memory. */
const MAX_MANIFESTS = 8

/** Entries in one answer. */
const MAX_PAGE = 1000

/** Bytes after which an answer of referrers ends, and tells where to go on. */
const MAX_REFERRERS = 2 ** 20

/** Status and code of the distribution spec for each error that a client can make. */
const ANSWERS: Record<string, [400 | 403 | 404 | 405 | 413 | 416 | 429 | 507, string]> = {
  'bad-name': [400, 'NAME_INVALID'],
  'bad-digest': [400, 'DIGEST_INVALID'],
  'bad-page': [400, 'UNSUPPORTED'],
  'bad-reference': [400, 'MANIFEST_INVALID'],
  'wrong-digest': [400, 'DIGEST_INVALID'],
  'wrong-size': [400, 'SIZE_INVALID'],
  'wrong-range': [416, 'BLOB_UPLOAD_INVALID'],
  'no-range': [416, 'UNSUPPORTED'],
  'no-upload': [404, 'BLOB_UPLOAD_UNKNOWN'],
  'upload-busy': [400, 'BLOB_UPLOAD_INVALID'],
  'no-blob': [404, 'BLOB_UNKNOWN'],
  'no-manifest': [404, 'MANIFEST_UNKNOWN'],
  'no-repository': [404, 'NAME_UNKNOWN'],
  'no-path': [404, 'UNSUPPORTED'],
  'manifest-invalid': [400, 'MANIFEST_INVALID'],
  'manifest-too-big': [413, 'MANIFEST_INVALID'],
  'manifest-incomplete': [404, 'MANIFEST_BLOB_UNKNOWN'],
  'too-many-uploads': [429, 'TOOMANYREQUESTS'],
  kept: [405, 'UNSUPPORTED'],
  'bad-host': [403, 'DENIED'],
  'bad-origin': [403, 'DENIED'],
  // Clients show the message of a refusal, and try again after anything that is not one.
  'no-room': [403, 'DENIED'],
  disk: [507, 'DENIED'],
}

export class Registry {
  private receiving = 0
  private readonly manifests: Manifests

  private constructor(
    private readonly options: RegistryOptions,
    private readonly server: Server,
  ) {
    this.manifests = new Manifests(options)
  }

  /** @throws MeshError `registry` where it cannot listen */
  static async open(options: RegistryOptions): Promise<Registry> {
    const app = new Hono<{ Bindings: HttpBindings }>()
    const server = createAdaptorServer({ fetch: app.fetch }) as Server
    const registry = new Registry(options, server)
    registry.addRoutes(app)
    server.requestTimeout = 0 // a layer takes as long as it takes; what stands still ends by the silence
    server.headersTimeout = DEADLINE
    server.maxConnections = MAX_CONNECTIONS
    server.setTimeout(MAX_SILENCE)
    server.listen(options.port, '127.0.0.1')
    await once(server, 'listening').catch((cause) => {
      const why = `the registry cannot listen on 127.0.0.1:${options.port}: ${messageOf(cause)}`
      throw new MeshError('registry', why, { cause })
    })
    return registry
  }

  get port(): number {
    return (this.server.address() as AddressInfo).port
  }

  async close(): Promise<void> {
    const closed = new Promise((resolve) => this.server.close(resolve))
    this.server.closeAllConnections()
    await closed
  }

  private addRoutes(app: Hono<{ Bindings: HttpBindings }>): void {
    app.use(async ({ req, header }, proceed) => {
      header('docker-distribution-api-version', 'registry/2.0')
      const foreign = foreignness(req)
      if (foreign !== undefined) throw foreign
      await proceed()
    })
    app.onError((error, ask) => this.answerError(error, ask))
    app.notFound(() => {
      throw new MeshError('no-path', 'the registry does no such thing, or has no such path')
    })
    app.get('/v2', (ask) => ask.json({}))
    app.get('/v2/', (ask) => ask.json({}))
    app.get('/v2/_catalog', (ask) => this.listNames(ask))
    app.post('/v2/:name{.+}/blobs/uploads/', (ask) => this.beginUpload(ask))
    app.get('/v2/:name{.+}/blobs/uploads/:id', (ask) => this.showUpload(ask, 204))
    app.patch('/v2/:name{.+}/blobs/uploads/:id', (ask) => this.appendToUpload(ask))
    app.put('/v2/:name{.+}/blobs/uploads/:id', (ask) => this.finishUpload(ask))
    app.delete('/v2/:name{.+}/blobs/uploads/:id', (ask) => this.abortUpload(ask))
    app.get('/v2/:name{.+}/blobs/:digest', (ask) => this.giveBlob(ask))
    app.delete('/v2/:name{.+}/blobs/:digest', (ask) => this.deleteBlob(ask))
    app.get('/v2/:name{.+}/manifests/:reference', (ask) => this.giveManifest(ask))
    app.put('/v2/:name{.+}/manifests/:reference', (ask) => this.takeManifest(ask))
    app.delete('/v2/:name{.+}/manifests/:reference', (ask) => this.deleteManifest(ask))
    app.get('/v2/:name{.+}/tags/list', (ask) => this.listTags(ask))
    app.get('/v2/:name{.+}/referrers/:digest', (ask) => this.listReferrers(ask))
  }

  private answerError(error: Error, ask: Ask): Response {
    const [status, code] = (error instanceof MeshError ? ANSWERS[error.code] : undefined) ?? [500, 'UNKNOWN']
    if (status >= 500) this.options.log.error({ reason: error.stack }, 'the registry could not do what it was asked')
    if (status === 429) ask.header('retry-after', '60')
    const list = error instanceof Incomplete ? error.missing : [undefined]
    return ask.json({ errors: list.map((detail) => ({ code, message: error.message, detail })) }, status)
  }

  // --- uploads ----------------------------------------------------------------------------------------------------

  private async beginUpload(ask: Ask): Promise<Response> {
    const { store } = this.options
    const name = nameOf(ask)
    const { digest, mount, 'digest-algorithm': algorithm = 'sha256' } = ask.req.query()
    if (algorithm !== 'sha256') throw badDigest(algorithm)
    if (mount !== undefined && store.has(checkedDigest(mount))) {
      store.use(mount)
      return created(ask, `/v2/${name}/blobs/${mount}`, mount)
    }
    if (digest === undefined) return this.showUpload(ask, 202, await store.uploads.begin())
    await store.write(checkedDigest(digest), bodyOf(ask))
    return created(ask, `/v2/${name}/blobs/${digest}`, digest)
  }

  private showUpload(ask: Ask, status: 202 | 204 | 416, id = ask.req.param('id')!): Response {
    const size = this.options.store.uploads.sizeOf(id)
    ask.header('location', `/v2/${nameOf(ask)}/blobs/uploads/${id}`)
    ask.header('range', `0-${Math.max(0, size - 1)}`)
    ask.header('docker-upload-uuid', id)
    if (status === 202) ask.header('content-length', '0')
    return ask.body(null, status)
  }

  private async appendToUpload(ask: Ask): Promise<Response> {
    nameOf(ask)
    await this.append(ask)
    return this.showUpload(ask, 202)
  }

  private async finishUpload(ask: Ask): Promise<Response> {
    const name = nameOf(ask)
    const digest = checkedDigest(ask.req.query('digest') ?? '')
    await this.append(ask)
    await this.options.store.commit(ask.req.param('id')!, digest)
    return created(ask, `/v2/${name}/blobs/${digest}`, digest)
  }

  private async abortUpload(ask: Ask): Promise<Response> {
    await this.options.store.uploads.abort(ask.req.param('id')!)
    return ask.body(null, 204)
  }

  /** Appends the body of a request to its upload, where it belongs there. */
  private async append(ask: Ask): Promise<void> {
    const { uploads } = this.options.store
    const id = ask.req.param('id')!
    const size = uploads.sizeOf(id)
    const length = ask.req.header('content-length')
    const range = ask.req.header('content-range')
    if (range !== undefined) {
      const [, first, last] = /^(\d{1,15})-(\d{1,15})$/.exec(range) ?? []
      if (first === undefined || Number(first) !== size) {
        this.showUpload(ask, 416) // its headers tell where to go on
        throw new MeshError('wrong-range', `the next byte of this upload is ${size}; Content-Range says ${range}`)
      }
      if (Number(length) !== Number(last) - size + 1) {
        throw new MeshError('wrong-size', `Content-Range says ${range}, Content-Length ${length}`)
      }
    }
    if (length !== '0' && (length ?? ask.req.header('transfer-encoding')) !== undefined) {
      await uploads.append(id, bodyOf(ask))
    }
  }

  // --- blobs ------------------------------------------------------------------------------------------------------

  private async giveBlob(ask: Ask): Promise<Response> {
    const admit = this.options.hold?.(nameOf(ask))
    const { store, source } = this.options
    const digest = digestParam(ask)
    const here = store.size(digest)
    const remote = here === undefined ? await source?.blob(digest) : undefined
    const size = here ?? remote?.size
    if (size === undefined) throw new MeshError('no-blob', `blob ${digest} is neither here nor with any peer`)
    ask.header('docker-content-digest', digest)
    const range = rangeOf(ask.req.header('range'), size)
    if (range === 'none') {
      ask.header('content-range', `bytes */${size}`)
      throw new MeshError('no-range', `blob ${digest} has ${size} bytes`)
    }
    const { start, end } = range ?? { start: 0, end: size }
    if (range !== undefined) ask.header('content-range', `bytes ${start}-${end - 1}/${size}`)
    ask.header('accept-ranges', 'bytes')
    ask.header('content-type', 'application/octet-stream')
    ask.header('content-length', String(end - start))
    const head = ask.body(null, range === undefined ? 200 : 206)
    if (ask.req.method === 'HEAD') return head
    const bytes =
      remote === undefined ? await store.read(digest, { start, end }) : exactly(end - start, remote.read(start, end))
    const body =
      bytes instanceof Readable && admit === undefined
        ? bytes
        : Readable.from(admit === undefined ? bytes : heldBack(bytes, () => admit(digest)), { objectMode: false })
    // Straight to the socket, which says when it has enough.
    const { outgoing } = ask.env
    outgoing.writeHead(head.status, Object.fromEntries(head.headers))
    await pipeline(body, outgoing).catch((error) => {
      // The connection is gone, so that nobody takes what came for all of it.
      this.options.log.debug({ digest, reason: messageOf(error) }, 'a blob was not given to its end')
    })
    return RESPONSE_ALREADY_SENT
  }

  private async deleteBlob(ask: Ask): Promise<Response> {
    nameOf(ask)
    const { store } = this.options
    const digest = digestParam(ask)
    if (!store.has(digest)) throw new MeshError('no-blob', `blob ${digest} is not here`)
    if (await store.isKept(digest)) throw new MeshError('kept', `a tag or an instance here needs blob ${digest}`)
    await store.remove(digest)
    return ask.body(null, 202)
  }

  // --- manifests --------------------------------------------------------------------------------------------------

  private async giveManifest(ask: Ask): Promise<Response> {
    const name = nameOf(ask)
    const reference = referenceParam(ask)
    const digest = isDigest(reference) ? reference : await this.options.store.catalogue.tag(name, reference)
    const found = digest === undefined ? undefined : await this.manifests.get(digest)
    if (found === undefined) throw new MeshError('no-manifest', `there is no manifest ${name} ${reference}`)
    ask.header('content-type', found.manifest.mediaType)
    ask.header('docker-content-digest', digest)
    ask.header('content-length', String(found.bytes.length))
    return ask.body(found.bytes as Uint8Array<ArrayBuffer>)
  }

  private async takeManifest(ask: Ask): Promise<Response> {
    const name = nameOf(ask)
    const reference = referenceParam(ask)
    const bytes = await this.receiveManifest(ask)
    const [contentType] = (ask.req.header('content-type') ?? '').split(';')
    const manifest = readManifest(bytes, contentType?.trim() || undefined)
    const digest = digestOf(bytes)
    if (isDigest(reference) && reference !== digest) {
      throw new MeshError('wrong-digest', `the manifest has the digest ${digest}, and not ${reference}`)
    }
    await this.manifests.put(name, isDigest(reference) ? undefined : reference, bytes, manifest)
    if (manifest.subject !== undefined) ask.header('oci-subject', manifest.subject)
    return created(ask, `/v2/${name}/manifests/${digest}`, digest)
  }

  /** Takes a manifest, or a tag, out of a repository. What nothing else keeps is removed. */
  private async deleteManifest(ask: Ask): Promise<Response> {
    const { store } = this.options
    const name = nameOf(ask)
    const reference = referenceParam(ask)
    if (!isDigest(reference)) {
      if ((await store.catalogue.tag(name, reference)) === undefined) throw noManifest(name, reference)
      await store.catalogue.removeTag(name, reference)
      return ask.body(null, 202)
    }
    if ((await this.manifests.local(reference)) === undefined) throw noManifest(name, reference)
    await store.catalogue.removeManifest(name, reference)
    if (!(await store.isKept(reference))) await store.remove(reference)
    return ask.body(null, 202)
  }

  private async receiveManifest(ask: Ask): Promise<Buffer> {
    const { incoming } = ask.env
    const tooBig = new MeshError('manifest-too-big', `a manifest has at most ${MAX_MANIFEST} bytes`)
    if (Number(ask.req.header('content-length') ?? 0) > MAX_MANIFEST) throw tooBig
    if (this.receiving >= MAX_MANIFESTS) {
      throw new MeshError('too-many-uploads', `${MAX_MANIFESTS} manifests are being sent; try again in a minute`)
    }
    this.receiving++
    const deadline = setTimeout(() => incoming.destroy(), DEADLINE)
    try {
      const chunks: Uint8Array[] = []
      let size = 0
      for await (const chunk of bodyOf(ask)) {
        size += chunk.length
        if (size > MAX_MANIFEST) throw tooBig
        chunks.push(chunk)
      }
      return Buffer.concat(chunks)
    } finally {
      clearTimeout(deadline)
      this.receiving--
    }
  }

  // --- lists ------------------------------------------------------------------------------------------------------

  private async listNames(ask: Ask): Promise<Response> {
    const page = pageOf(ask, isName)
    const names = await this.options.store.catalogue.names(page.last, page.limit + 1)
    return ask.json({ repositories: cut(ask, '/v2/_catalog', names, page) })
  }

  private async listTags(ask: Ask): Promise<Response> {
    const { catalogue } = this.options.store
    const name = nameOf(ask)
    const page = pageOf(ask, isTag)
    if (!(await catalogue.hasTags(name))) throw new MeshError('no-repository', `there is no repository ${name}`)
    const tags = await catalogue.tags(name, page.last, page.limit + 1)
    return ask.json({ name, tags: cut(ask, `/v2/${name}/tags/list`, tags, page) })
  }

  private async listReferrers(ask: Ask): Promise<Response> {
    const { catalogue } = this.options.store
    const name = nameOf(ask)
    const subject = digestParam(ask)
    const { artifactType, last = '' } = ask.req.query()
    if (last !== '') checkedDigest(last)
    const manifests: object[] = []
    let size = 0
    for (const digest of await catalogue.referrers(name, subject, last)) {
      const found = await this.manifests.local(digest)
      if (found === undefined) continue
      const { bytes, manifest } = found
      if (artifactType !== undefined && manifest.artifactType !== artifactType) continue
      const { mediaType, annotations } = manifest
      const descriptor = { mediaType, size: bytes.length, digest, artifactType: manifest.artifactType, annotations }
      manifests.push(descriptor)
      size += JSON.stringify(descriptor).length
      if (size < MAX_REFERRERS) continue
      const query = new URLSearchParams({ ...(artifactType !== undefined && { artifactType }), last: digest })
      ask.header('link', `</v2/${name}/referrers/${subject}?${query}>; rel="next"`)
      break
    }
    if (artifactType !== undefined) ask.header('oci-filters-applied', 'artifactType')
    ask.header('content-type', INDEX)
    return ask.body(JSON.stringify({ schemaVersion: 2, mediaType: INDEX, manifests }))
  }
}

const noManifest = (name: string, reference: string): MeshError =>
  new MeshError('no-manifest', `there is no manifest ${name} ${reference}`)

const badDigest = (text: string): MeshError =>
  new MeshError('bad-digest', `"${text.slice(0, 80)}": a digest here is sha256: and 64 hexadecimal digits`)

function checkedDigest(text: string): string {
  if (!isDigest(text)) throw badDigest(text)
  return text
}

const digestParam = (ask: Ask): string => checkedDigest(ask.req.param('digest') ?? '')

function nameOf(ask: Ask): string {
  const name = ask.req.param('name') ?? ''
  if (!isName(name)) throw new MeshError('bad-name', `"${name.slice(0, 80)}" cannot be the name of a repository`)
  return name
}

/** A tag or a digest. */
function referenceParam(ask: Ask): string {
  const reference = ask.req.param('reference') ?? ''
  if (isTag(reference) || isDigest(reference)) return reference
  if (reference.includes(':')) throw badDigest(reference)
  throw new MeshError('bad-reference', `"${reference.slice(0, 80)}" is neither a tag nor a digest`)
}

/** The body of a request. Who stops amid it leaves the connection as it is: the refusal has to go through it. */
const bodyOf = (ask: Ask): AsyncIterable<Uint8Array> => ask.env.incoming.iterator({ destroyOnReturn: false })

function created(ask: Ask, location: string, digest: string): Response {
  ask.header('location', location)
  ask.header('docker-content-digest', digest)
  ask.header('content-length', '0')
  return ask.body(null, 201)
}

/**
 * What a Range header asks for, the end left out. Undefined for all of it: also where it says nothing that can be understood, or
 * asks for several parts, as RFC 9110 allows.
 */
export function rangeOf(header: string | undefined, size: number): { start: number; end: number } | 'none' | undefined {
  const [, first = '', last = ''] = /^bytes=(\d{0,15})-(\d{0,15})$/.exec(header ?? '') ?? []
  if (first === '' && last === '') return undefined
  if (first === '') return last === '0' || size === 0 ? 'none' : { start: Math.max(0, size - Number(last)), end: size }
  const start = Number(first)
  const end = last === '' ? size : Math.min(size, Number(last) + 1)
  if (last !== '' && Number(last) < start) return undefined
  return start >= size ? 'none' : { start, end }
}

/** Passes on all but the last piece, and that one when it may. */
async function* heldBack(source: AsyncIterable<Uint8Array>, may: () => Promise<void>): AsyncGenerator<Uint8Array> {
  let last: Uint8Array | undefined
  for await (const chunk of source) {
    if (last !== undefined) yield last
    last = chunk
  }
  await may()
  if (last !== undefined) yield last
}

/** Passes on so many bytes, and fails where they are fewer or more: the length was promised. */
async function* exactly(size: number, source: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array> {
  let left = size
  for await (const chunk of source) {
    left -= chunk.length
    if (left < 0) break
    yield chunk
  }
  if (left !== 0) throw new Error(`the source gave other than the ${size} bytes it was asked for`)
}

interface Page {
  readonly limit: number
  readonly last: string
}

function pageOf(ask: Ask, isEntry: (text: string) => boolean): Page {
  const { n = String(MAX_PAGE), last = '' } = ask.req.query()
  if (!/^\d{1,9}$/.test(n) || (last !== '' && !isEntry(last))) {
    throw new MeshError('bad-page', 'n is how many entries are wanted, last the one before them')
  }
  return { limit: Math.min(Number(n), MAX_PAGE), last }
}

/** The entries of a page, of a list that has one more where there is more. */
function cut(ask: Ask, path: string, list: string[], { limit }: Page): string[] {
  const page = list.slice(0, limit)
  const last = page.at(-1)
  if (list.length > limit && last !== undefined) {
    ask.header('link', `<${path}?${new URLSearchParams({ n: String(limit), last })}>; rel="next"`)
  }
  return page
}
