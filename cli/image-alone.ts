// A chute that is an image and nothing else: the manifest that a person would have written for it, of what they say as to
// `docker run`. It is read like any other, so that nothing is checked twice.
import { ManifestError } from '../protocols/compose-remarks.js'
import { NAME } from '../protocols/deployment.js'
import { MeshError } from '../protocols/error.js'
import { type Circumstances, type Manifest, parseManifest } from '../protocols/manifest.js'

export interface ImageOptions {
  port?: string[]
  env?: string[]
  volume?: string[]
}

/** The one service of such a chute. */
export const ONLY_SERVICE = 'main'

/** How people say what stands under a key of a service. */
const FLAGS: Record<string, string> = { image: '--image', ports: '--port', environment: '--env', volumes: '--volume' }

/** @throws MeshError `manifest` with all that is wrong, by option */
export function imageManifest(image: string, options: ImageOptions, circumstances: Circumstances): Manifest {
  const { port = [], env = [], volume = [] } = options
  // As text it is, whatever it holds: who wants a variable has a shell.
  const plain = (texts: string[]) => texts.map((text) => text.replaceAll('$', '$$$$'))
  const volumes = volume.map((mount) => mount.split(':')[0]!).filter((name) => NAME.test(name))
  const manifest = {
    services: {
      [ONLY_SERVICE]: { image, ports: plain(port), environment: plain(env), volumes: plain(volume) },
    },
    volumes: Object.fromEntries(volumes.map((name) => [name, {}])),
  }
  try {
    return parseManifest(JSON.stringify(manifest), '', circumstances) // JSON is YAML
  } catch (error) {
    if (!(error instanceof ManifestError)) throw error
    const lines = error.problems.map(({ path, message }) => {
      const [, , key = '', at] = /^services\.(\w+)\.(\w+)(?:\[(\d+)\])?/.exec(path) ?? []
      const given = at === undefined ? undefined : { ports: port, environment: env, volumes: volume }[key]?.[Number(at)]
      return [FLAGS[key] ?? path, ...(given === undefined ? [] : [` ${given}`]), `: ${message}`].join('')
    })
    throw new MeshError('manifest', lines.join('\n'), { cause: error })
  }
}
