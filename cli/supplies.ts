// Where what a service runs from would come from, and how much of it there is, as far as that shows before anything is built or
// sent. Asks the node here, where one runs, and changes nothing.
import { join, resolve } from 'node:path'
import { MeshError } from '../protocols/error.js'
import { isGitUrl } from '../protocols/git-url.js'
import type { Manifest, ManifestService } from '../protocols/manifest.js'
import type { Client } from './client.js'
import type { Source } from './sources.js'

interface ImageSize {
  platform: string
  size?: number
}

/** Sizes are in bytes. */
export type Supply =
  /** An archive, which is sent. */
  | { from: 'archive'; file: string; bytes: number }
  /** A folder, of which so much is sent to be built; the Dockerfile is null where it is no file. */
  | { from: 'folder'; files: number; bytes: number; dockerfile: string | null }
  /** A repository, which is fetched when the chute is published. */
  | { from: 'git' }
  /** An image in the engine or in the registry of this AP, for each platform; or in the registry that its name is of. */
  | { from: 'engine' | 'registry' | 'elsewhere'; images: ImageSize[] }
  /** There is nothing to ask about images. */
  | { from: 'unknown'; why: string }

/** Without a node, or an engine that it runs, nothing is known of images; a dry run goes without. */
const NOBODY = ['no-node', 'no-engine']

interface FoundLine {
  found?: { at: 'engine' | 'registry' | 'elsewhere'; images: ImageSize[] }
  error?: { code: string; message: string }
}

/** By service. @throws MeshError where it is known that something is not there */
export async function suppliesOf(client: Client, source: Source, manifest: Manifest): Promise<Map<string, Supply>> {
  const supplies = new Map<string, Supply>()
  for (const service of manifest.services) supplies.set(service.name, await supplyOf(client, source, service))
  return supplies
}

async function supplyOf(
  client: Client,
  { archive, folder }: Source,
  { name, source }: ManifestService,
): Promise<Supply> {
  if (archive !== undefined) return { from: 'archive', file: archive.file, bytes: archive.bytes }
  if ('build' in source) {
    const { context, dockerfile, dockerfileInline } = source.build
    if (isGitUrl(context)) return { from: 'git' }
    // Loaded only here, since what it needs takes longer to load than all the rest.
    const { measureContext } = await import('../node/packages/build.js')
    const measured = await measureContext(resolve(folder, context), dockerfile, dockerfileInline)
    return {
      from: 'folder',
      ...measured,
      dockerfile: dockerfileInline === undefined ? join(context, dockerfile) : null,
    }
  }
  try {
    return await findImage(client, source.image)
  } catch (error) {
    if (!(error instanceof MeshError)) throw error
    if (NOBODY.includes(error.code)) return { from: 'unknown', why: error.message }
    throw new MeshError(error.code, `${name}: ${error.message}`, { cause: error })
  }
}

async function findImage(client: Client, ref: string): Promise<Supply> {
  for await (const { found, error } of client.lines<FoundLine>('POST', '/v1/images/find', {}, { ref })) {
    if (error !== undefined) throw new MeshError(error.code, error.message)
    if (found !== undefined) return { from: found.at, images: found.images }
  }
  throw new MeshError('internal', 'the node ended without a result')
}
