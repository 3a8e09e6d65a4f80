// The answer of the API that is a git repository.
import type { HttpBindings } from '@hono/node-server'
import type { Context } from 'hono'
import { stream } from 'hono/streaming'
import { MeshError, messageOf } from '../../protocols/error.js'
import type { GitSource } from '../../protocols/git-url.js'
import type { GitSources } from '../packages/git.js'

/**
 * Streams lines `{output}` while a repository is fetched, and at the end either `{error}`, or `{source: {commit, files, bytes}}`
 * and, from the next byte on, the files as a tar. A tar cannot tell of an error, so all that can be checked is checked before it
 * begins; where one comes later, the connection breaks.
 */
export function giveSource(context: Context, sources: GitSources, source: GitSource): Response {
  context.header('content-type', 'application/vnd.dropmesh.source')
  const { outgoing } = context.env as HttpBindings
  const gone = new AbortController()
  outgoing.once('close', () => gone.abort(new MeshError('gone', 'nobody waits for it any more')))
  return stream(context, async (out) => {
    let last: Promise<unknown> = Promise.resolve()
    const line = (value: object) => {
      last = last.then(() => out.writeln(JSON.stringify(value)))
    }
    let isTar = false
    try {
      await sources.fetch(
        source,
        (output) => line({ output }),
        gone.signal,
        async ({ commit, files, bytes, tar }) => {
          line({ source: { commit, files, bytes } })
          await last
          isTar = true
          for await (const chunk of tar()) await out.write(chunk)
        },
      )
    } catch (error) {
      if (isTar) outgoing.destroy()
      else line({ error: { code: error instanceof MeshError ? error.code : 'internal', message: messageOf(error) } })
    }
    await last
  })
}
