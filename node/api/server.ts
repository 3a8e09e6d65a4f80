// The local API: HTTP over a Unix socket that only its owner can open, and read-only over TCP where that was asked for.
import { chmod, rm } from 'node:fs/promises'
import type { Server } from 'node:http'
import { isIP } from 'node:net'
import { Readable } from 'node:stream'
import type { ReadableStream as NodeReadableStream } from 'node:stream/web'
import { createAdaptorServer } from '@hono/node-server'
import { type Context, Hono } from 'hono'
import { bodyLimit } from 'hono/body-limit'
import { stream } from 'hono/streaming'
import { z } from 'zod'
import { apKey, hex, unhex } from '../../protocols/bytes.js'
import { NAME } from '../../protocols/deployment.js'
import { describe } from '../../protocols/envelope.js'
import { MeshError, messageOf } from '../../protocols/error.js'
import { MAX_RECORD } from '../../protocols/limits.js'
import type { Ap } from '../ap.js'
import { aps, chuteIdentity, chutes, findAp, inspect, instances, next, status } from './queries.js'

const hexKey = z.string().regex(/^[0-9a-f]{64}$/, 'a public key has 64 hexadecimal digits')
const inviteRequest = z.object({ role: z.enum(['ap', 'admin']).default('ap'), ttl: z.int().min(0).default(0) })
const apRequest = z.object({ ap: z.string() })
const drainRequest = z.object({ ap: z.string().optional(), draining: z.boolean() })
const nextRequest = z.object({ publisher: hexKey, name: z.string().regex(NAME) })
const imageRequest = z.object({ ref: z.string().min(1).max(512) })
const buildRequest = z.object({
  dockerfile: z.string().max(1024).default('Dockerfile'),
  onBaseImage: z
    .enum(['true', 'false'])
    .default('false')
    .transform((text) => text === 'true'),
  args: z
    .string()
    .default('{}')
    .transform((text) => z.record(z.string(), z.string()).parse(JSON.parse(text))),
})

/** The API of an AP. Every error is `{error: {code, message}}`. */
function routes(ap: Ap): Hono {
  const app = new Hono()
  app.onError((error, context) => {
    const known = error instanceof MeshError ? error : undefined
    if (known === undefined) ap.log.error({ reason: error.stack }, 'a request failed')
    const message =
      known?.message ?? (error instanceof z.ZodError ? `the request is wrong: ${describe(error)}` : error.message)
    const code = known?.code ?? (error instanceof z.ZodError ? 'bad-request' : 'internal')
    return context.json({ error: { code, message } }, code === 'internal' ? 500 : 400)
  })
  app.notFound((context) =>
    context.json({ error: { code: 'not-found', message: `no such path: ${context.req.path}` } }, 404),
  )

  app.get('/v1/status', (context) => context.json(status(ap)))
  app.get('/v1/aps', (context) => context.json(aps(ap)))
  app.get('/v1/chutes', (context) => context.json(chutes(ap)))
  app.get('/v1/instances', (context) => context.json(instances(ap)))
  app.get('/v1/inspect', (context) => context.json(inspect(ap, context.req.query('of') ?? '')))
  app.get('/v1/events', (context) => followEvents(ap, context))
  app.get('/v1/next', (context) => {
    const { publisher, name } = nextRequest.parse(context.req.query())
    return context.json(next(ap, unhex(publisher), name))
  })
  app.get('/v1/chute', (context) => context.json(chuteIdentity(ap, context.req.query('of') ?? '')))

  app.post('/v1/records', bodyLimit({ maxSize: MAX_RECORD, onError: tooBig }), async (context) => {
    const { record, holders } = await ap.submit(new Uint8Array(await context.req.arrayBuffer()))
    return context.json({ hash: hex(record.hash), holders })
  })
  app.post('/v1/invite', async (context) => {
    const { role, ttl } = inviteRequest.parse(await context.req.json())
    return context.json({ ticket: await ap.invite(role, ttl) })
  })
  app.post('/v1/forget', async (context) => {
    const id = findAp(ap, apRequest.parse(await context.req.json()).ap)
    const name = ap.nameOf(id)
    await ap.sign('forget', apKey(id), {})
    return context.json({ id, name })
  })
  app.post('/v1/drain', async (context) => {
    const { ap: text, draining } = drainRequest.parse(await context.req.json())
    const id = text === undefined ? ap.id : findAp(ap, text)
    await ap.sign('drain', apKey(id), { draining })
    return context.json({ id, name: ap.nameOf(id), draining })
  })
  app.post('/v1/images/resolve', async (context) => {
    const { ref } = imageRequest.parse(await context.req.json())
    return progress(context, (say) => ap.resolveImage(ref, say))
  })
  app.post('/v1/images/build', (context) => {
    const options = buildRequest.parse(context.req.query())
    const body = context.req.raw.body
    if (body === null) throw new MeshError('bad-request', 'the request has no build context (a tar as its body)')
    return progress(context, (say) => ap.buildImage(Readable.fromWeb(body as NodeReadableStream), options, say))
  })
  return app
}

const tooBig = (context: Context) =>
  context.json({ error: { code: 'record-too-big', message: `a record has at most ${MAX_RECORD} bytes` } }, 400)

/** Streams lines `{output}` while something runs, and `{image}` or `{error}` as the last one. */
function progress(context: Context, run: (say: (output: string) => void) => Promise<object>): Response {
  context.header('content-type', 'application/x-ndjson')
  return stream(context, async (out) => {
    let last: Promise<unknown> = Promise.resolve()
    const line = (value: object) => {
      last = last.then(() => out.writeln(JSON.stringify(value)))
    }
    try {
      const image = await run((output) => line({ output }))
      line({ image: readableImage(image) })
    } catch (error) {
      line({ error: { code: error instanceof MeshError ? error.code : 'internal', message: messageOf(error) } })
    }
    await last
  })
}

// Bytes have no form of their own in JSON; digests travel as hex.
const readableImage = (image: object): object =>
  Object.fromEntries(
    Object.entries(image).map(([key, value]) => [
      key,
      value instanceof Uint8Array ? hex(value) : Array.isArray(value) ? value.map((item) => hex(item)) : value,
    ]),
  )

async function followEvents(ap: Ap, context: Context): Promise<Response> {
  const since = context.req.query('since') ?? ''
  const follow = context.req.query('follow') === 'true'
  context.header('content-type', 'application/x-ndjson')
  return stream(context, async (out) => {
    const queue: object[] = []
    let wake: () => void = () => {}
    const unfollow = ap.events.follow((event) => {
      queue.push(event)
      wake()
    })
    out.onAbort(() => {
      unfollow()
      wake()
    })
    try {
      for (const event of await ap.events.past()) if (event.at >= since) await out.writeln(JSON.stringify(event))
      while (follow && !out.aborted) {
        const event = queue.shift()
        if (event !== undefined) await out.writeln(JSON.stringify(event))
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

/** Serves the whole API on a Unix socket of mode 0600. The socket of a node that is gone is replaced. */
export async function serveSocket(ap: Ap, path: string): Promise<Server> {
  await rm(path, { force: true })
  const server = createAdaptorServer({ fetch: routes(ap).fetch }) as Server
  const before = process.umask(0o177) // so that there is no moment in which others could open it
  try {
    await listen(server, { path })
  } finally {
    process.umask(before)
  }
  await chmod(path, 0o600)
  return server
}

/**
 * Serves what only reads, on TCP. Requests whose Host is no address or `localhost` are refused, or a web page could reach
 * it through a name of its own (DNS rebinding).
 * @throws MeshError `http` where the address is wrong or taken
 */
export async function serveHttp(ap: Ap, address: string): Promise<Server> {
  const at = address.lastIndexOf(':')
  const host = address.slice(0, at).replace(/^\[(.*)\]$/, '$1')
  const port = Number(address.slice(at + 1))
  if (at < 1 || !Number.isInteger(port) || port < 0 || port > 65535) {
    throw new MeshError('http', `--http "${address}": write it as HOST:PORT, such as 127.0.0.1:4080`)
  }
  const app = new Hono()
  app.use(async (context, proceed) => {
    const name = (context.req.header('host') ?? '').replace(/:\d+$/, '').replace(/^\[(.*)\]$/, '$1')
    if (context.req.method !== 'GET') {
      return context.json(
        { error: { code: 'read-only', message: 'this port only reads; changes go through the socket' } },
        405,
      )
    }
    if (isIP(name) === 0 && name !== 'localhost') {
      return context.json({ error: { code: 'bad-host', message: `the host "${name}" is not this AP` } }, 403)
    }
    await proceed()
  })
  app.route('/', routes(ap))
  const server = createAdaptorServer({ fetch: app.fetch }) as Server
  await listen(server, { host, port }).catch((cause) => {
    throw new MeshError('http', `cannot listen on ${address}: ${messageOf(cause)}`, { cause })
  })
  return server
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
