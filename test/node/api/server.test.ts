import { existsSync, mkdirSync, readFileSync, statSync, writeFileSync } from 'node:fs'
import { type IncomingMessage, type RequestOptions, request, type Server } from 'node:http'
import { type AddressInfo, createServer } from 'node:net'
import { join } from 'node:path'
import { pino } from 'pino'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { Ap } from '../../../node/ap.js'
import type { ApRow, Status } from '../../../node/api/queries.js'
import { serveHttp, serveSocket } from '../../../node/api/server.js'
import { Tokens } from '../../../node/api/tokens.js'
import { loadConfig } from '../../../node/config.js'
import type { MeshEvent } from '../../../node/events.js'
import { SmallFile } from '../../../node/store/files.js'
import { hex } from '../../../protocols/bytes.js'
import { chuteSubject } from '../../../protocols/chute.js'
import { seal } from '../../../protocols/envelope.js'
import { apSigner } from '../../../protocols/keys.js'
import { MAX_CLOCK_AHEAD, MAX_RECORD } from '../../../protocols/limits.js'
import { creationOf, serviceOf, specOf } from '../../protocols/support.js'
import { scratch } from '../../support/scratch.js'
import { until } from '../../support/until.js'
import { refusalOf, seed } from '../realm.js'

const data = join(scratch('api'), 'node')
const flags = { name: 'desk', listen: ['/ip4/127.0.0.1/tcp/0'], 'no-mdns': true, 'docker-host': 'unix:///no/engine' }
const logged: string[] = []
const log = pino({ level: 'debug', base: null }, { write: (line: string) => void logged.push(line) })
const founder = apSigner(seed())
const ap = await Ap.start(await loadConfig(data, flags, {}), log, async () => founder.publicKey)
const path = join(data, 'dropmesh.sock')

// A node that was killed leaves its socket; and a file in its place is no obstacle either.
writeFileSync(path, 'stale')
/** How far the clock of the tokens is ahead. */
let later = 0
const openTokens = () => Tokens.open(new SmallFile(join(data, 'tokens')), () => Date.now() + later)
const tokens = await openTokens()
const { token: reader } = await tokens.issue('read', 60_000)
const servers: Server[] = [await serveSocket(ap, path, tokens), await serveHttp(ap, '127.0.0.1:0', tokens)]
const { port } = servers[1]!.address() as AddressInfo
test.after(async () => {
  for (const server of servers) server.close().closeAllConnections()
  await ap.stop()
})

interface Answer {
  status: number
  type: string
  text: string
  // biome-ignore lint/suspicious/noExplicitAny: tests look into it
  json: any
}

type Ask = RequestOptions & { body?: Uint8Array | string }

const send = (options: Ask): Promise<IncomingMessage> =>
  new Promise((resolve, reject) => {
    const { body, ...rest } = options
    request({ agent: false, ...rest }, resolve)
      .on('error', reject)
      .end(body)
  })

async function ask(options: Ask): Promise<Answer> {
  const response = await send(options)
  let text = ''
  for await (const chunk of response.setEncoding('utf8')) text += chunk
  const type = response.headers['content-type'] ?? ''
  return {
    status: response.statusCode!,
    type,
    text,
    json: type.startsWith('application/json') ? JSON.parse(text || 'null') : null,
  }
}

const onSocket = (method: string, where: string, body?: Uint8Array | string): Promise<Answer> =>
  ask({ socketPath: path, method, path: where, body })

const overTcp = (
  { headers, ...options }: Ask & { headers?: Record<string, string> } = {},
  token = reader,
): Promise<Answer> =>
  ask({
    host: '127.0.0.1',
    port,
    path: '/v1/status',
    ...options,
    headers: { authorization: `Bearer ${token}`, ...headers },
  })

/** An error has one shape, wherever it comes from. */
function assertError(answer: Answer, status: number, code: string, message: RegExp): void {
  assert.equal([answer.status, answer.json?.error?.code], [status, code], answer.text)
  assert.match(answer.json.error.message, message, answer.json.error.message)
  assert.equal(Object.keys(answer.json), ['error'])
  assert.equal(Object.keys(answer.json.error).sort(), ['code', 'message'])
}

const followers = (): number => (Reflect.get(ap.events, 'listeners') as Set<unknown>).size

test('only its owner can open the socket, which took the place of a stale one', async () => {
  const { mode } = statSync(path)
  assert.is(mode & 0o777, 0o600)
  assert.ok(statSync(path).isSocket())
  assert.is((await onSocket('GET', '/v1/status')).status, 200)
})

test('the umask is as before, also for what is made while the socket is opened', async () => {
  const before = process.umask(0o022)
  const other = join(data, 'other.sock')
  const serving = serveSocket(ap, other, tokens)
  await until('the socket to be there', () => existsSync(other), { everyMs: 1 })
  const folder = join(data, 'made-meanwhile')
  mkdirSync(folder)
  const server = await serving
  assert.is(statSync(folder).mode & 0o777, 0o755)
  assert.is(statSync(other).mode & 0o777, 0o600)
  assert.is(process.umask(before), 0o022)
  server.close()
})

test('status and aps have the fields that scripts use', async () => {
  const status: Status = (await onSocket('GET', '/v1/status')).json
  assert.equal(status.ap, { id: ap.id, name: 'desk' })
  assert.equal([status.mesh, status.state, status.role, status.peers], [ap.mesh, 'running', 'admin', 0])
  assert.is(status.docker, null)
  assert.ok(status.ledger.records >= 1)
  assert.ok(Math.abs(Date.parse(status.time) - Date.now()) < 5000)
  assert.ok(status.warnings.some((warning) => /engine/.test(warning)))
  const [row, ...others]: ApRow[] = (await onSocket('GET', '/v1/aps')).json
  assert.equal(others, [])
  assert.equal([row!.id, row!.name, row!.state], [ap.id, 'desk', 'alive'])
  for (const where of ['/v1/chutes', '/v1/instances']) assert.equal((await onSocket('GET', where)).json, [])
})

test('the socket can be given to a group, which reaches it and nothing else of the node', async () => {
  const folder = join(scratch('group'), 'node')
  mkdirSync(folder, { mode: 0o700 })
  const other = join(folder, 'dropmesh.sock')
  const server = await serveSocket(ap, other, tokens, String(process.getgid!()))
  const [socket, around] = [statSync(other), statSync(folder)]
  assert.equal([socket.mode & 0o777, socket.gid], [0o660, process.getgid!()])
  assert.equal([around.mode & 0o777, around.gid], [0o710, process.getgid!()])
  server.close()
  const refusal = await refusalOf(serveSocket(ap, other, tokens, 'no-such-group'), 'socket-group')
  assert.match(refusal.message, 'there is no group "no-such-group"')
})

test('over TCP nothing is answered without a token that is good', async () => {
  const { token: short, id } = await tokens.issue('read', 1000)
  const { token: taken, id: takenId } = await tokens.issue('write', 60_000)
  await tokens.remove(takenId)
  assert.is((await overTcp({}, short)).status, 200)
  later = 1000
  for (const authorization of [
    ...['', 'Bearer', 'Bearer x', `Basic ${reader}`, `Bearer ${reader}x`, `Bearer ${reader.slice(0, -1)}`, reader],
    ...[`Bearer ${short}`, `Bearer ${taken}`, `Bearer ${reader} x`, `Bearer ${'x'.repeat(5000)}`],
  ]) {
    assertError(await overTcp({ headers: { authorization } }), 401, 'no-token', /dropmesh token new/)
    const write = { method: 'POST', path: '/v1/approve', body: '{}' }
    assertError(await overTcp({ ...write, headers: { authorization } }), 401, 'no-token', /dropmesh token new/)
  }
  assert.not(
    tokens.list().some((row) => row.id === id),
    'it is too old',
  )
  later = 0
})

test('a token that writes does what the socket does, but makes no tokens and ends no node', async () => {
  const { token } = await tokens.issue('write', 60_000)
  const answer = await overTcp({ method: 'POST', path: '/v1/approve', body: '{}' }, token)
  assertError(answer, 400, 'bad-request', /the request is wrong/)
  for (const where of ['/v1/tokens', '/v1/tokens/remove', '/v1/handover']) {
    assertError(await overTcp({ method: 'POST', path: where, body: '{}' }, token), 404, 'not-found', /no such path/)
  }
  assertError(await overTcp({ path: '/v1/tokens' }, token), 404, 'not-found', /no such path/)
})

test('tokens are made, told and taken back on the socket, survive the node, and are not in its folder', async () => {
  const made = await onSocket('POST', '/v1/tokens', '{"right":"read","age":60000}')
  const { token, ...row } = made.json
  assert.is((await overTcp({}, token)).status, 200)
  assert.ok(Math.abs(Date.parse(row.until) - Date.now() - 60_000) < 5000)
  assert.equal((await onSocket('GET', '/v1/tokens')).json.at(-1), row)
  const kept = readFileSync(join(data, 'tokens'), 'utf8')
  assert.not(kept.includes(token) || kept.includes(token.slice(4)))
  assert.is(statSync(join(data, 'tokens')).mode & 0o777, 0o600)
  assert.is((await openTokens()).rightOf(token), 'read')
  assert.is((await onSocket('POST', '/v1/tokens/remove', JSON.stringify({ id: row.id }))).status, 200)
  assertError(await overTcp({}, token), 401, 'no-token', /dropmesh token new/)
  assert.is((await openTokens()).rightOf(token), undefined)
  const again = await onSocket('POST', '/v1/tokens/remove', JSON.stringify({ id: row.id }))
  assertError(again, 400, 'no-such-token', /token ls/)
  for (const body of ['{"right":"king","age":60000}', '{"right":"read"}', '{"right":"read","age":1e12}']) {
    assertError(await onSocket('POST', '/v1/tokens', body), 400, 'bad-request', /the request is wrong/)
  }
})

test('a page of another origin is refused, even with a token', async () => {
  for (const origin of ['null', 'http://evil.example', 'https://127.0.0.1', `http://127.0.0.1:${port + 1}`]) {
    assertError(await overTcp({ headers: { origin } }), 403, 'bad-origin', /is not this AP/)
  }
  assert.is((await overTcp({ headers: { origin: `http://127.0.0.1:${port}` } })).status, 200)
})

test('what its publisher may not ask for waits, and ps and inspect say why', async () => {
  const publisher = apSigner(seed())
  const { json: next } = await onSocket('GET', `/v1/next?publisher=${hex(publisher.publicKey)}&name=greedy`)
  const spec = specOf({ services: [serviceOf({ capabilities: ['NET_RAW', 'SYS_ADMIN'] })] })
  const body = { creation: creationOf(1000), revision: 1, spec }
  const subject = chuteSubject(publisher.publicKey, 'greedy')
  const { mesh, clock } = ap.ledgerStore
  const grant = seal(founder, mesh, clock.next(), 'grant', publisher.publicKey, { role: 'publisher', expires: 0 })
  assert.is((await onSocket('POST', '/v1/records', grant.bytes)).status, 200)
  const record = seal(publisher, mesh, next.clock, 'deployment', subject, body)
  assertError(await onSocket('POST', '/v1/records', record.bytes), 400, 'not-granted', /needs the right cap:NET_RAW/)
  await ap.ledgerStore.accept([record.bytes]) // as from a member that does not care
  const why =
    'service web needs the right cap:NET_RAW, which its publisher does not hold; ' +
    'service web asks for cap:SYS_ADMIN, which no chute may have'
  await until('the chute to be known', async () => (await onSocket('GET', '/v1/instances')).json.length === 1)
  const [row] = (await onSocket('GET', '/v1/instances')).json
  assert.equal([row.state, row.reason], ['waiting', `may not be placed: ${why}`])
  const { rights, instances } = (await onSocket('GET', '/v1/inspect?of=greedy')).json
  assert.is(instances[0].reason, `may not be placed: ${why}`)
  assert.equal(rights, [
    { service: 'web', right: 'cap:NET_RAW', held: false },
    { service: 'web', right: 'cap:SYS_ADMIN', held: false },
  ])
})

test('over TCP the same answers come, and with a token that reads nothing can be changed', async () => {
  const [tcp, socket] = [await overTcp(), await onSocket('GET', '/v1/status')]
  assert.is(tcp.json.ap.id, socket.json.ap.id)
  const before = ap.ledgerStore.ledger.size
  for (const method of ['POST', 'PUT', 'DELETE', 'PATCH', 'OPTIONS']) {
    assertError(await overTcp({ method, path: '/v1/approve' }), 403, 'read-only', /only reads/)
  }
  assertError(await overTcp({ method: 'POST', path: '/v1/approve', body: '{}' }), 403, 'read-only', /only reads/)
  assertError(await overTcp({ path: '/v1/approve' }), 404, 'not-found', /no such path: \/v1\/approve/)
  assert.is(ap.ledgerStore.ledger.size, before)
})

test('a web page that reaches the TCP port through a name of its own is refused', async () => {
  for (const host of ['evil.example', 'evil.example:80', '127.0.0.1.evil.example', 'localhost.evil.example:1']) {
    assertError(await overTcp({ headers: { host } }), 403, 'bad-host', /is not this AP/)
  }
  for (const host of ['127.0.0.1', `127.0.0.1:${port}`, 'localhost', 'localhost:99', '[::1]', '[::1]:80', '10.0.0.7']) {
    assert.is((await overTcp({ headers: { host } })).status, 200, host)
  }
  const answer = await overTcp()
  assert.not.match(answer.text, 'access-control')
})

test('an address that cannot be served says so', async () => {
  for (const address of ['', '4080', 'localhost', 'localhost:x', '[::1]']) {
    assert.match((await refusalOf(serveHttp(ap, address, tokens), 'http')).message, 'HOST:PORT')
  }
  const taken = createServer()
  await new Promise<void>((resolve) => taken.listen(0, '127.0.0.1', resolve))
  const address = `127.0.0.1:${(taken.address() as AddressInfo).port}`
  assert.match((await refusalOf(serveHttp(ap, address, tokens), 'http')).message, /cannot listen on .*EADDRINUSE/)
  taken.close()
})

test('every error has the same shape and a code', async () => {
  assertError(await onSocket('GET', '/v2/status'), 404, 'not-found', /no such path: \/v2\/status/)
  assertError(await onSocket('POST', '/v1/status'), 404, 'not-found', /no such path/)
  assertError(
    await onSocket('GET', '/v1/inspect?of=nothing'),
    400,
    'no-such-thing',
    /no chute, AP, key or ticket "nothing"/,
  )
  for (const where of ['/v1/chute', '/v1/history'])
    assertError(await onSocket('GET', `${where}?of=nothing`), 400, 'no-such-chute', /no chute "nothing"/)
  assertError(await onSocket('GET', '/v1/next?publisher=x&name=y'), 400, 'bad-request', /publisher: a public key has/)
  for (const where of ['/v1/approve', '/v1/images/resolve', '/v1/packages', '/v1/sources/git']) {
    assertError(await onSocket('POST', where, '{"half'), 400, 'bad-request', /not JSON/)
    assertError(await onSocket('POST', where, ''), 400, 'bad-request', /not JSON/)
    assertError(await onSocket('POST', where, '[]'), 400, 'bad-request', /the request is wrong/)
    assertError(await onSocket('POST', where, `"${'x'.repeat(70_000)}"`), 400, 'bad-request', /at most 65536 bytes/)
  }
  assertError(await onSocket('POST', '/v1/approve', '{"ap":"x","grant":"king"}'), 400, 'bad-request', /grant/)
  assertError(await onSocket('GET', '/v1/ap?of=nobody'), 400, 'no-such-ap', /no AP "nobody"/)
  assertError(await onSocket('GET', '/v1/voters?of=nothing'), 400, 'no-such-chute', /no chute "nothing"/)
  assertError(await onSocket('POST', '/v1/images/build?args=nonsense', 'x'), 400, 'bad-request', /not JSON/)
  assertError(await onSocket('POST', '/v1/images/build?args=[1]', 'x'), 400, 'bad-request', /wrong/)
  assert.not.match(logged.join(''), 'a request failed')
})

test('a mistake of the node is told as such, and its trace is in the log', async () => {
  const { submit } = ap
  ap.submit = () => Promise.reject(new TypeError('a mistake'))
  assertError(await onSocket('POST', '/v1/records', 'x'), 500, 'internal', /a mistake/)
  ap.submit = submit
  assert.match(logged.join(''), /a request failed/)
  assert.match(logged.join(''), /server\.test/)
})

test('a record is taken in, said to be held, and refused with its reason', async () => {
  const publisher = apSigner(seed())
  const { json: next } = await onSocket('GET', `/v1/next?publisher=${hex(publisher.publicKey)}&name=hello`)
  assert.equal([next.creation, next.revision, next.mesh], [null, 1, hex(ap.ledgerStore.mesh)])
  const forgetAt = (clock: readonly [number, number]) =>
    seal(founder, ap.ledgerStore.mesh, clock, 'forget', publisher.publicKey, {})
  const record = forgetAt(next.clock)
  const taken = await onSocket('POST', '/v1/records', record.bytes)
  assert.equal([taken.status, taken.json], [200, { hash: hex(record.hash), holders: 1 }])
  assert.equal((await onSocket('POST', '/v1/records', record.bytes)).json, taken.json, 'twice is as good as once')
  const ahead = forgetAt([Date.now() + 2 * MAX_CLOCK_AHEAD, 0])
  const bad = Uint8Array.from(record.bytes)
  bad[bad.length - 1]! ^= 1
  for (const [bytes, code, message] of [
    [ahead.bytes, 'clock-ahead', /s ahead of this AP's/],
    [bad, 'bad-signature', /does not verify/],
    [new Uint8Array(0), 'malformed', /CBOR/],
    [new Uint8Array(MAX_RECORD), 'malformed', /CBOR/],
    [new Uint8Array(MAX_RECORD + 1), 'record-too-big', /at most 32768 bytes/],
    [new Uint8Array(10 * MAX_RECORD), 'record-too-big', /at most 32768 bytes/],
  ] as const) {
    assertError(await onSocket('POST', '/v1/records', bytes), 400, code, message)
  }
})

test('who belongs to the mesh, takes work or votes is for the key of an admin to say, and not for who can ask the node', async () => {
  const { token } = await tokens.issue('write', 60_000)
  const eve = apSigner(seed())
  const before = ap.ledgerStore.ledger.digest()
  const forced = { generation: 1, voters: [ap.signer.publicKey], forced: true }
  for (const [kind, subject, body] of [
    ['forget', ap.signer.publicKey, {}],
    ['drain', ap.signer.publicKey, { draining: true }],
    ['voters', new Uint8Array(20), forced],
  ] as const) {
    const { json: next } = await onSocket('GET', '/v1/clock')
    const { bytes } = seal(eve, ap.ledgerStore.mesh, next.clock, kind, subject, body)
    const why = new RegExp(`key ${hex(eve.publicKey)} is no admin and can sign no ${kind} record; use .* --key`)
    assertError(await onSocket('POST', '/v1/records', bytes), 400, 'not-an-admin', why)
    const record = { method: 'POST', path: '/v1/records', body: bytes }
    assertError(await overTcp(record, token), 400, 'not-an-admin', why)
    assertError(await overTcp(record, reader), 403, 'read-only', /only reads/)
  }
  for (const where of ['/v1/forget', '/v1/drain', '/v1/force']) {
    assertError(await onSocket('POST', where, `{"ap":"${ap.id}"}`), 404, 'not-found', /no such path/)
  }
  assert.equal(ap.ledgerStore.ledger.digest(), before)
  const { json: next } = await onSocket('GET', '/v1/clock')
  const drain = seal(founder, ap.ledgerStore.mesh, next.clock, 'drain', ap.signer.publicKey, { draining: true })
  assert.is((await overTcp({ method: 'POST', path: '/v1/records', body: drain.bytes }, token)).status, 200)
  await until('the AP to be drained', async () => (await onSocket('GET', '/v1/aps')).json[0].state === 'draining')
})

test('a body without a stated length is limited as well', async () => {
  const answer = await new Promise<Answer>((resolve, reject) => {
    const outgoing = request({ socketPath: path, method: 'POST', path: '/v1/records' }, async (response) => {
      let text = ''
      for await (const chunk of response.setEncoding('utf8')) text += chunk
      resolve({ status: response.statusCode!, type: '', text, json: JSON.parse(text) })
    })
    outgoing.on('error', reject)
    for (let i = 0; i < 20; i++) outgoing.write(new Uint8Array(8000))
    outgoing.end()
  })
  assertError(answer, 400, 'record-too-big', /at most 32768/)
})

test('what a ticket of this mesh is made of is its key and where to find it', async () => {
  const { json } = await onSocket('GET', '/v1/entrances')
  assert.is(json.meshKey, hex(ap.meshKey))
  assert.ok(json.addresses.length > 0 && json.addresses.every((address: string) => address.endsWith(`/p2p/${ap.id}`)))
})

test('the past is told from a moment on, and ends; to follow it does not end', async () => {
  const all: MeshEvent[] = (await onSocket('GET', '/v1/events')).text
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line))
  assert.is(all[0]!.kind, 'up')
  const since = all.at(-1)!.at
  const some = (await onSocket('GET', `/v1/events?since=${since}`)).text.trim().split('\n')
  assert.ok(some.length >= 1 && some.length <= all.length)
  assert.is((await onSocket('GET', '/v1/events?since=9999')).text, '')
  assert.is(followers(), 0)
})

test('who follows hears each event once, whether it came before, meanwhile or after', async () => {
  for (let round = 0; round < 5; round++) {
    const mark = `round ${round}`
    for (let i = 0; i < 5; i++) ap.events.add('test', { mark, i, ap: mark })
    const responding = send({ socketPath: path, path: '/v1/events?follow=true' })
    const telling = (async () => {
      for (let i = 5; i < 60; i++) {
        ap.events.add('test', { mark, i, ap: mark })
        if (i % 5 === 0) await new Promise((resolve) => setImmediate(resolve))
      }
    })()
    const response = await responding
    await telling
    const heard: number[] = []
    let rest = ''
    response.setEncoding('utf8').on('data', (text: string) => {
      const lines = (rest + text).split('\n')
      rest = lines.pop()!
      for (const line of lines) if (line.includes(mark)) heard.push(JSON.parse(line).i)
    })
    await until('all events to be heard', () => heard.includes(59))
    assert.equal(
      heard,
      Array.from({ length: 60 }, (_, i) => i),
    )
    response.destroy()
    await until('the follower to be forgotten', () => followers() === 0)
  }
})

test('a follower that goes away, at any moment, leaves nothing behind', async () => {
  for (let i = 0; i < 20; i++) {
    const outgoing = request({ socketPath: path, path: '/v1/events?follow=true' }, (response) => {
      if (i % 3 === 0) response.destroy()
    })
    outgoing.on('error', () => {})
    outgoing.end()
    if (i % 3 === 1) setImmediate(() => outgoing.destroy())
    if (i % 3 === 2) outgoing.once('response', (response) => response.once('data', () => outgoing.destroy()))
  }
  await until('all followers to be forgotten', () => followers() === 0)
  assert.is((await onSocket('GET', '/v1/status')).status, 200)
})

test('a follower that does not read is let go, and holds up nobody', async () => {
  const response = await send({ socketPath: path, path: '/v1/events?follow=true' })
  response.pause()
  const responding = (await until('the follower to be known', () => followers() === 1)) && response
  const follow = [...(Reflect.get(ap.events, 'listeners') as Set<(event: MeshEvent) => void>)][0]!
  const event = { at: 'now', kind: 'test', text: 'x'.repeat(1000) }
  for (let i = 0; i < 25_000; i++) follow(event)
  assert.is((await onSocket('GET', '/v1/status')).status, 200)
  responding.resume()
  await until('the stream to end', () => response.readableEnded || response.destroyed)
  await until('the follower to be forgotten', () => followers() === 0)
})

test.run()
