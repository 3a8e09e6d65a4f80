// The local API: HTTP over a Unix socket that only its owner can open, or a group, and over TCP, for those who have a token,
// where that was asked for.
import { chmod, chown, readFile, rm, stat } from 'node:fs/promises'
import type { Server } from 'node:http'
import { dirname } from 'node:path'
import { Readable } from 'node:stream'
import type { ReadableStream as NodeReadableStream } from 'node:stream/web'
import { createAdaptorServer, type HttpBindings } from '@hono/node-server'
import { type Context, Hono } from 'hono'
import { bodyLimit } from 'hono/body-limit'
import { stream } from 'hono/streaming'
import { z } from 'zod'
import { hex, unhex } from '../../protocols/bytes.js'
import { clockSchema } from '../../protocols/clock.js'
import { NAME } from '../../protocols/deployment.js'
import { describe } from '../../protocols/envelope.js'
import { MeshError, messageOf } from '../../protocols/error.js'
import { parseGitUrl } from '../../protocols/git-url.js'
import { MAX_RECORD } from '../../protocols/limits.js'
import type { Ap } from '../ap.js'
import { parseHostPort } from '../config.js'
import { readable } from '../packages/publishing.js'
import { findKey, grants, proof, stakesOf } from './grants.js'
import { invites, requests } from './invites.js'
import { foreignness } from './origin.js'
import {
  aps,
  chuteIdentity,
  chutes,
  findAp,
  forcedVoters,
  history,
  inspect,
  instances,
  next,
  status,
} from './queries.js'
import { addSecretRoutes } from './secrets.js'
import { giveSource } from './sources.js'
import { TOKEN_RIGHTS, type Tokens } from './tokens.js'

const hexKey = z.string().regex(/^[0-9a-f]{64}$/, 'a public key has 64 hexadecimal digits')
const approveRequest = z.object({
  ap: z.string(),
  /** Hex of a grant in the ledger, of the ticket's key and of its signature for this AP. */
  grant: hexKey,
  ticket: hexKey,
  at: clockSchema,
  signature: z.string().regex(/^[0-9a-f]{128}$/, 'a signature has 128 hexadecimal digits'),
})
/** For a year at most: a token that nobody remembers must end. */
const tokenRequest = z.object({
  right: z.enum(TOKEN_RIGHTS),
  age: z
    .int()
    .min(1000)
    .max(366 * 86_400_000),
})
const tokenId = z.object({ id: z.string() })
const nextRequest = z.object({ publisher: hexKey, name: z.string().regex(NAME) })
const imageRequest = z.object({ ref: z.string().min(1).max(512) })
const gitRequest = z.object({ url: z.string().min(1).max(4096) })
const packageRequest = z.object({
  roots: z
    .array(z.string().regex(/^[0-9a-f]{64}$/))
    .min(1)
    .max(512),
})
const buildRequest = z.object({
  dockerfile: z.string().max(1024).default('Dockerfile'),
  onBaseImage: z
    .enum(['true', 'false'])
    .default('false')
    .transform((text) => text === 'true'),
  args: z
    .string()
    .default('{}')
    .transform((text) => z.record(z.string(), z.string()).parse(readJson(text))),
})

/** A request that is no record and no build context, in bytes. */
const MAX_REQUEST = 64 * 1024
/** Events that a follower may be behind before it is let go: it does not read. */
const MAX_BEHIND = 10_000

/** Adds the API of an AP. Every error is `{error: {code, message}}`. */
export function addRoutes(app: Hono, ap: Ap): Hono {
  app.onError((error, context) => {
    if (error instanceof MeshError) return context.json({ error: { code: error.code, message: error.message } }, 400)
    if (error instanceof z.ZodError) {
      const message = `the request is wrong: ${describe(error)}`
      return context.json({ error: { code: 'bad-request', message } }, 400)
    }
    ap.log.error({ reason: error.stack }, 'a request failed')
    return context.json({ error: { code: 'internal', message: error.message } }, 500)
  })
  app.notFound((context) =>
    context.json({ error: { code: 'not-found', message: `no such path: ${context.req.path}` } }, 404),
  )

  // What is asked of all of the mesh needs word of those whose beacons are not heard here.
  const ofWholeMesh = (answer: () => object) => async (context: Context) => {
    await ap.askHolders()
    return context.json(answer())
  }

  app.get('/v1/status', (context) => context.json(status(ap)))
  app.get('/v1/aps', (context) => context.json(aps(ap)))
  app.get(
    '/v1/chutes',
    ofWholeMesh(() => chutes(ap)),
  )
  app.get(
    '/v1/instances',
    ofWholeMesh(() => instances(ap)),
  )
  app.get('/v1/inspect', (context) => context.json(inspect(ap, context.req.query('of') ?? '')))
  app.get('/v1/history', (context) => context.json(history(ap, context.req.query('of') ?? '')))
  app.get('/v1/events', (context) => followEvents(ap, context))
  app.get('/v1/next', (context) => {
    const { publisher, name } = nextRequest.parse(context.req.query())
    return context.json(next(ap, unhex(publisher), name))
  })
  app.get('/v1/clock', (context) =>
    context.json({ mesh: hex(ap.ledgerStore.mesh), clock: ap.ledgerStore.clock.next() }),
  )
  app.get('/v1/grants', (context) => context.json(grants(ap)))
  app.get('/v1/entrances', (context) => context.json({ meshKey: hex(ap.meshKey), addresses: ap.entrances() }))
  app.get('/v1/invites', (context) => context.json(invites(ap)))
  app.get('/v1/requests', (context) => context.json(requests(ap)))
  app.get('/v1/stakes', (context) => {
    const key = findKey(ap, context.req.query('of') ?? '')
    return context.json({ key: hex(key), stakes: stakesOf(ap, key) })
  })
  addSecretRoutes(app, ap)
  app.get('/v1/chute', (context) => context.json(chuteIdentity(ap, context.req.query('of') ?? '')))
  app.get('/v1/proof', (context) => context.json(proof(ap, context.req.query('of') ?? '')))
  app.get('/v1/ap', (context) => {
    const of = context.req.query('of')
    const id = of === undefined ? ap.id : findAp(ap, of)
    return context.json({ id, name: ap.nameOf(id) })
  })
  app.get('/v1/voters', (context) => context.json(forcedVoters(ap, context.req.query('of') ?? '')))

  app.post('/v1/records', limited(MAX_RECORD, 'record-too-big', 'a record'), async (context) => {
    const { record, holders } = await ap.submit(new Uint8Array(await context.req.arrayBuffer()))
    return context.json({ hash: hex(record.hash), holders })
  })
  const small = limited(MAX_REQUEST, 'bad-request', 'a request')
  app.post('/v1/approve', small, async (context) => {
    const { ap: id, grant, ticket, at, signature } = approveRequest.parse(readJson(await context.req.text()))
    const record = ap.ledgerStore.ledger.get(unhex(grant))
    if (record === undefined) throw new MeshError('no-such-grant', `no grant ${grant} was submitted here`)
    const admission = { ticket: unhex(ticket), at, signature: unhex(signature) }
    const { name } = ap.asks.approve(id, { grant: record.bytes, admission })
    ap.events.add('approved', { ap: id, name, by: hex(record.signer) })
    return context.json({ id, name })
  })
  const publishing = () => ap.provision.publishing
  app.post('/v1/images/find', small, async (context) => {
    const { ref } = imageRequest.parse(readJson(await context.req.text()))
    return progress(context, async () => ({ found: await publishing().lookFor(ref) }))
  })
  app.post('/v1/images/resolve', small, async (context) => {
    const { ref } = imageRequest.parse(readJson(await context.req.text()))
    return progress(context, async (say) => ({ images: readable(await publishing().resolve(ref, say)) }))
  })
  app.post('/v1/images/build', (context) => {
    const options = buildRequest.parse(context.req.query())
    const body = bodyOf(context, 'build context')
    return progress(context, async (say) => ({ images: readable(await publishing().build(body, options, say)) }))
  })
  app.post('/v1/images/import', (context) => {
    const body = bodyOf(context, 'archive of images')
    return progress(context, async (say) => {
      const found = await publishing().import(body, say)
      return { archive: found.map(({ names, images }) => ({ names, images: readable(images) })) }
    })
  })
  app.post('/v1/sources/git', small, async (context) => {
    const { url } = gitRequest.parse(readJson(await context.req.text()))
    return giveSource(context, ap.sources, parseGitUrl(url))
  })
  app.post('/v1/sources', (context) => {
    const body = bodyOf(context, 'build context')
    return progress(context, async () => ({ sources: await publishing().keep(body) }))
  })
  app.post('/v1/packages', small, async (context) => {
    const { roots } = packageRequest.parse(readJson(await context.req.text()))
    return progress(context, async () => {
      const { digest, size } = await publishing().make(roots)
      return { package: { digest: hex(digest), size } }
    })
  })
  return app
}

/** What only who has the socket may do: no token makes another one, or ends the node. */
export function addOwnRoutes(app: Hono, ap: Ap, tokens: Tokens): Hono {
  const small = limited(MAX_REQUEST, 'bad-request', 'a request')
  app.post('/v1/handover', small, async (context) => {
    await ap.stepAside()
    return context.json({ pid: process.pid })
  })
  app.get('/v1/tokens', (context) => context.json(tokens.list()))
  app.post('/v1/tokens', small, async (context) => {
    const { right, age } = tokenRequest.parse(readJson(await context.req.text()))
    return context.json(await tokens.issue(right, age))
  })
  app.post('/v1/tokens/remove', small, async (context) => {
    const { id } = tokenId.parse(readJson(await context.req.text()))
    await tokens.remove(id)
    return context.json({ id })
  })
  return app
}

const limited = (maxSize: number, code: string, what: string) =>
  bodyLimit({
    maxSize,
    onError: (context) => context.json({ error: { code, message: `${what} has at most ${maxSize} bytes` } }, 400),
  })

function readJson(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    throw new MeshError('bad-request', 'the request is wrong: not JSON')
  }
}

/** The body of a request that carries an archive. */
function bodyOf(context: Context, what: string): Readable {
  const { body } = context.req.raw
  if (body === null) throw new MeshError('bad-request', `the request has no ${what} (a tar as its body)`)
  return Readable.fromWeb(body as NodeReadableStream)
}

/** Streams lines `{output}` while something runs, and what comes of it or `{error}` as the last one. */
function progress(context: Context, run: (say: (output: string) => void) => Promise<object>): Response {
  context.header('content-type', 'application/x-ndjson')
  return stream(context, async (out) => {
    let last: Promise<unknown> = Promise.resolve()
    const line = (value: object) => {
      last = last.then(() => out.writeln(JSON.stringify(value)))
    }
    try {
      line(await run((output) => line({ output })))
    } catch (error) {
      line({ error: { code: error instanceof MeshError ? error.code : 'internal', message: messageOf(error) } })
    }
    await last
  })
}

async function followEvents(ap: Ap, context: Context): Promise<Response> {
  const since = context.req.query('since') ?? ''
  const follow = context.req.query('follow') === 'true'
  context.header('content-type', 'application/x-ndjson')
  // The connection itself says for certain when a follower is gone, also one that goes before the stream begins.
  const { outgoing } = context.env as HttpBindings
  return stream(context, async (out) => {
    const queue: string[] = []
    let wake: () => void = () => {}
    const unfollow = ap.events.follow((event) => {
      queue.push(JSON.stringify(event))
      // One that does not read must not make this AP remember for it.
      if (queue.length > MAX_BEHIND) outgoing.destroy()
      wake()
    })
    const gone = new Promise<void>((resolve) => {
      if (outgoing.destroyed) resolve()
      outgoing.once('close', () => {
        unfollow()
        wake()
        resolve()
      })
    })
    const write = (line: string) => Promise.race([out.writeln(line), gone])
    try {
      const past = await ap.events.past()
      // What happened while the past was read is in both.
      const both = new Set(past.slice(Math.max(0, past.length - queue.length)).map((event) => JSON.stringify(event)))
      while (queue.length > 0 && both.has(queue[0]!)) queue.shift()
      for (const event of past) {
        if (outgoing.destroyed) return
        if (event.at >= since) await write(JSON.stringify(event))
      }
      while (follow && !outgoing.destroyed) {
        const line = queue.shift()
        if (line !== undefined) await write(line)
        else {
          await new Promise<void>((resolve) => {
            wake = resolve
          })
        }
      }
    } finally {
      unfollow()
    }
  })
}

/**
 * Serves the whole API on a Unix socket of mode 0600, or 0660 and a group's. The socket of a node that is gone is replaced.
 * @param group name or number
 * @throws MeshError `socket-group` where there is no such group, or the node may not give the socket to it
 */
export async function serveSocket(ap: Ap, path: string, tokens: Tokens, group?: string): Promise<Server> {
  const id = group === undefined ? undefined : await groupId(group)
  await rm(path, { force: true })
  const app = addOwnRoutes(addRoutes(new Hono(), ap), ap, tokens)
  const server = createAdaptorServer({ fetch: app.fetch }) as Server
  // So that there is no moment in which others could open it. Node binds before `listen` returns; a wait with this umask
  // would leave folders that are made meanwhile without the right to enter them.
  const before = process.umask(0o177)
  const listening = listen(server, { path })
  process.umask(before)
  await listening
  await chmod(path, 0o600)
  if (id === undefined) return server
  try {
    await giveTo(id, path)
  } catch (cause) {
    server.close()
    throw new MeshError('socket-group', `cannot give the socket to group "${group}": ${messageOf(cause)}`, { cause })
  }
  return server
}

async function groupId(group: string): Promise<number> {
  if (/^\d+$/.test(group)) return Number(group)
  const groups = await readFile('/etc/group', 'utf8').catch(() => '')
  const found = groups.split('\n').find((line) => line.startsWith(`${group}:`))
  if (found === undefined)
    throw new MeshError('socket-group', `there is no group "${group}" in /etc/group; use one, or its number`)
  return Number(found.split(':')[2])
}

/** A socket to a group, which can reach it in its folder, but neither list that nor read what is for the owner. */
async function giveTo(group: number, path: string): Promise<void> {
  const folder = await stat(dirname(path))
  if ((folder.mode & 0o001) === 0) {
    await chown(dirname(path), folder.uid, group)
    await chmod(dirname(path), 0o710)
  }
  await chown(path, (await stat(path)).uid, group)
  await chmod(path, 0o660)
}

/**
 * Serves the API on TCP for those who have a token: GET with one that reads, all but what is the socket's own with one that
 * writes. Requests whose Host is no address or `localhost` are refused, or a web page could reach it through a name of its
 * own (DNS rebinding); so are those that a page of another origin makes.
 * @throws MeshError `http` where the address is wrong or taken
 */
export async function serveHttp(ap: Ap, address: string, tokens: Tokens): Promise<Server> {
  const where = parseHostPort(address)
  if (where === undefined) {
    throw new MeshError('http', `--http "${address}": write it as HOST:PORT, such as 127.0.0.1:4080`)
  }
  const app = new Hono()
  app.use(async (context, proceed) => {
    const refusal = refusalOf(context, tokens)
    if (refusal === undefined) return proceed()
    const [status, code, message] = refusal
    if (status === 401) context.header('www-authenticate', 'Bearer')
    return context.json({ error: { code, message } }, status)
  })
  addRoutes(app, ap)
  const server = createAdaptorServer({ fetch: app.fetch }) as Server
  await listen(server, where).catch((cause) => {
    throw new MeshError('http', `cannot listen on ${address}: ${messageOf(cause)}`, { cause })
  })
  return server
}

function refusalOf({ req }: Context, tokens: Tokens): [401 | 403, string, string] | undefined {
  const foreign = foreignness(req)
  if (foreign !== undefined) return [403, foreign.code, foreign.message]
  const [, token] = /^Bearer (\S{1,256})$/i.exec(req.header('authorization') ?? '') ?? []
  const right = token === undefined ? undefined : tokens.rightOf(token)
  if (right === undefined) {
    return [401, 'no-token', 'this port wants "Authorization: Bearer TOKEN", from "dropmesh token new"']
  }
  if (right === 'read' && req.method !== 'GET') return [403, 'read-only', 'this token only reads']
  return undefined
}

function listen(server: Server, where: { path: string } | { host: string; port: number }): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once('error', reject)
    server.listen(where, () => {
      server.off('error', reject)
      resolve()
    })
  })
}
