// Pulling an image by name, which only a publisher's own node does, and only where the manifest names the image.
import type Docker from 'dockerode'
import { MeshError, messageOf } from '../../protocols/error.js'
import { work } from '../chutes/docker-client.js'

/** @throws MeshError `no-image` with the registry's reason; EngineError `no-engine` */
export async function pullImage(docker: Docker, name: string, say: (line: string) => void): Promise<void> {
  const isTagged = /@|:(?!.*\/)/.test(name)
  try {
    await work(
      `pull ${name}`,
      null,
      (_, abortSignal) => docker.createImage({ fromImage: isTagged ? name : `${name}:latest`, abortSignal }),
      ({ status, id, progressDetail }) => {
        if (status !== undefined && progressDetail?.current === undefined)
          say(id === undefined ? status : `${id}: ${status}`)
      },
    )
  } catch (error) {
    if (error instanceof MeshError && error.code === 'no-engine') throw error
    throw new MeshError(
      'no-image',
      `${name} is not in the local engine, and its registry does not give it: ${messageOf(error)}`,
      {
        cause: error,
      },
    )
  }
}
