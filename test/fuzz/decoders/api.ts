// What comes to the local API: here that of an AP that answers nothing.
import { Hono } from 'hono'
import type { Ap } from '../../../node/ap.js'
import { addOwnRoutes, addRoutes } from '../../../node/api/server.js'
import type { Tokens } from '../../../node/api/tokens.js'
import { hex, utf8 } from '../../../protocols/bytes.js'
import { MeshError } from '../../../protocols/error.js'
import { CLOCK } from '../../protocols/samples.js'
import { type Decoder, key, must, text } from './decoder.js'

let failed: string | undefined
const note = ({ reason }: { reason: string }): void => {
  failed = reason
}

/** An AP that answers nothing: what comes to it was read. */
const nobody = new Proxy({} as Ap, {
  get: (_, name) => {
    if (name === 'log') return { error: note }
    throw new MeshError('read', 'it was read')
  },
})
const app = addOwnRoutes(addRoutes(new Hono(), nobody), nobody, nobody as unknown as Tokens)

/** Requests as [path with query, body]. */
export const api: Decoder = {
  name: 'api',
  form: 'json',
  limit: 80 * 1024,
  seeds: [
    ...[
      ['status'],
      ['aps'],
      ['chutes'],
      ['instances'],
      ['inspect?of=a'],
      ['history?of=a'],
      [`next?name=a&publisher=${hex(key(1))}`],
      ['clock'],
      ['grants'],
      ['entrances'],
      ['invites'],
      ['requests'],
      ['stakes?of=a'],
      ['secrets?of=a'],
      ['secrets/given?ap=a'],
      ['chute?of=a'],
      ['proof?of=a'],
      ['ap?of=a'],
      ['voters?of=a'],
      ['tokens'],
    ],
    ...[
      ['records', 'x'],
      ['approve', { ap: 'a', grant: hex(key(1)), ticket: hex(key(2)), at: CLOCK, signature: hex(new Uint8Array(64)) }],
      ['images/resolve', { ref: 'a:1' }],
      ['images/build?dockerfile=a&onBaseImage=true&args=%7B%22a%22%3A%22b%22%7D', 'tar'],
      ['images/import', 'tar'],
      ['sources/git', { url: 'https://h.example/a.git#v1:b' }],
      ['sources', 'tar'],
      ['packages', { roots: [hex(key(1))] }],
      ['handover', ''],
      ['tokens', { right: 'read', age: 5000 }],
      ['tokens/remove', { id: 'a' }],
    ],
  ].map((request) => utf8(JSON.stringify(request))),
  reads: ['node/api/server.js'],
  quick: 150,
  decode: async (input) => {
    let request: unknown
    try {
      request = JSON.parse(text(input))
    } catch {}
    const [path, body] = Array.isArray(request) ? request : []
    if (typeof path !== 'string' || path.startsWith('events')) return
    failed = undefined
    const content = typeof body === 'string' ? body : JSON.stringify(body)
    const url = new URL(`http://localhost/v1/${path}`)
    const answer = await app.request(url, body === undefined ? {} : { method: 'POST', body: content })
    const said = await answer.text()
    // What streams its answer says so there.
    must(!said.includes('"code":"internal"'), said)
    if (failed !== undefined || answer.status >= 500) throw new Error(failed ?? `status ${answer.status}`)
  },
}
