// Which requests over TCP do not come from a client that means this AP: those of web pages.
import { isIP } from 'node:net'
import type { HonoRequest } from 'hono'
import { MeshError } from '../../protocols/error.js'

/**
 * Why a request is refused, or undefined where it is not. A Host that is no address or `localhost` is a web page's, which reaches
 * this AP through a name of its own (DNS rebinding); an Origin is of a page that asks across sites.
 */
export function foreignness(req: HonoRequest): MeshError | undefined {
  const host = req.header('host') ?? ''
  const name = host.replace(/:\d+$/, '').replace(/^\[(.*)\]$/, '$1')
  if (isIP(name) === 0 && name !== 'localhost') return new MeshError('bad-host', `the host "${name}" is not this AP`)
  const origin = req.header('origin')
  if (origin !== undefined && origin !== `http://${host}`) {
    return new MeshError('bad-origin', `the origin "${origin}" is not this AP`)
  }
  return undefined
}
