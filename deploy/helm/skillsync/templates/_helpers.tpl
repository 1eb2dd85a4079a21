{{/* Names. 63 characters are what a label value may have; the longest suffix is "-worker-metrics". */}}
{{- define "skillsync.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 48 | trimSuffix "-" -}}
{{- end -}}

{{- define "skillsync.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 47 | trimSuffix "-" -}}
{{- else -}}
{{- $name := include "skillsync.name" . -}}
{{- ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) | trunc 47 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* Labels that select pods never change; those of a release do. Called with (list $ "worker"). */}}
{{- define "skillsync.selector" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: {{ include "skillsync.name" $root }}
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end -}}

{{- define "skillsync.labels" -}}
{{- $root := index . 0 -}}
{{ include "skillsync.selector" . }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "skillsync.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}
{{ .repository }}@{{ .digest }}
{{- else -}}
{{ .repository }}:{{ .tag | default $.Chart.AppVersion }}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Whom a component signs in to the broker as, as JSON: its own auth, or else that of the workers. */}}
{{- define "skillsync.auth" -}}
{{- $root := index . 0 -}}
{{- $component := index . 1 -}}
{{- $where := "nats.auth" -}}
{{- $auth := $root.Values.nats.auth -}}
{{- if ne $component "worker" -}}
{{- $own := (index $root.Values $component).auth -}}
{{- if $own.existingSecret -}}
{{- $where = printf "%s.auth" $component -}}
{{- $auth = $own -}}
{{- end -}}
{{- end -}}
{{- $ways := compact (list $auth.credsKey $auth.nkeyKey $auth.passwordKey) -}}
{{- if and $auth.existingSecret (ne (len $ways) 1) -}}
{{- fail (printf "\n\n%s: set one of credsKey, nkeyKey and passwordKey to the key of the Secret %q\n" $where $auth.existingSecret) -}}
{{- end -}}
{{- if and (not $auth.existingSecret) $ways -}}
{{- fail (printf "\n\n%s.existingSecret is missing: the Secret that has the key %q\n" $where (first $ways)) -}}
{{- end -}}
{{- if ne (not $auth.passwordKey) (not $auth.user) -}}
{{- fail (printf "\n\n%s: user and passwordKey go together\n" $where) -}}
{{- end -}}
{{- toJson $auth -}}
{{- end -}}

{{/* Environment of everything that talks to the broker. Called with (list $ "worker"). */}}
{{- define "skillsync.env.broker" -}}
{{- $root := index . 0 -}}
{{- $auth := include "skillsync.auth" . | fromJson -}}
{{- with $root.Values.nats -}}
{{- $url := required "\n\nnats.url is missing: where the broker is, such as --set nats.url=nats://nats:4222\n" .url -}}
{{- if contains "@" $url -}}
{{- fail "\n\nnats.url holds a password, which whoever may read Deployments could read: use nats.auth\n" -}}
{{- end -}}
- {name: NATS_URL, value: {{ $url | quote }}}
{{- if $auth.credsKey }}
- {name: NATS_CREDS, value: /run/secrets/skillsync/nats.creds}
{{- end }}
{{- if $auth.nkeyKey }}
- {name: NATS_NKEY, value: /run/secrets/skillsync/nats.nk}
{{- end }}
{{- if $auth.passwordKey }}
- {name: NATS_USER, value: {{ $auth.user | quote }}}
- {name: NATS_PASSWORD_FILE, value: /run/secrets/skillsync/nats-password}
{{- end }}
{{- if $auth.inboxPrefix }}
- {name: NATS_INBOX_PREFIX, value: {{ $auth.inboxPrefix | quote }}}
{{- end }}
{{- if and .tls.caSecret .tls.caConfigMap }}
{{- fail "\n\nnats.tls: caSecret and caConfigMap are both set; set one\n" }}
{{- end }}
{{- if or .tls.caSecret .tls.caConfigMap }}
- {name: NATS_CA, value: /run/secrets/skillsync/nats-ca.crt}
{{- end }}
{{- if .tls.clientSecret }}
- {name: NATS_CERT, value: /run/secrets/skillsync/nats.crt}
- {name: NATS_KEY, value: /run/secrets/skillsync/nats.key}
{{- end }}
{{- end }}
- {name: SKILLSYNC_LOG_LEVEL, value: {{ $root.Values.log.level | quote }}}
- {name: SKILLSYNC_LOG_FORMAT, value: {{ $root.Values.log.format | quote }}}
{{- end -}}

{{/* The files that these variables name. All Secrets of a pod are in one folder, under names of our own. */}}
{{- define "skillsync.files.broker" -}}
{{- $root := index . 0 -}}
{{- $auth := include "skillsync.auth" . | fromJson -}}
{{- if $auth.existingSecret }}
- secret:
    name: {{ $auth.existingSecret }}
    items:
      {{- if $auth.credsKey }}
      - {key: {{ $auth.credsKey | quote }}, path: nats.creds}
      {{- end }}
      {{- if $auth.nkeyKey }}
      - {key: {{ $auth.nkeyKey | quote }}, path: nats.nk}
      {{- end }}
      {{- if $auth.passwordKey }}
      - {key: {{ $auth.passwordKey | quote }}, path: nats-password}
      {{- end }}
{{- end }}
{{- with $root.Values.nats.tls }}
{{- if .caSecret }}
- secret:
    name: {{ .caSecret }}
    items: [{key: {{ .caKey | quote }}, path: nats-ca.crt}]
{{- end }}
{{- if .caConfigMap }}
- configMap:
    name: {{ .caConfigMap }}
    items: [{key: {{ .caKey | quote }}, path: nats-ca.crt}]
{{- end }}
{{- if .clientSecret }}
- secret:
    name: {{ .clientSecret }}
    items: [{key: tls.crt, path: nats.crt}, {key: tls.key, path: nats.key}]
{{- end }}
{{- end }}
{{- end -}}

{{/* One variable, if its value is set. Called with (list "NAME" value). Numbers of values files are
     floats to helm and would come out as 1e+09. */}}
{{- define "skillsync.env.one" -}}
{{- $value := index . 1 -}}
{{- if and (not (kindIs "invalid" $value)) (ne (toString $value) "") }}
- {name: {{ index . 0 }}, value: {{ ternary $value (toString (int64 $value)) (kindIs "string" $value) | quote }}}
{{- end }}
{{- end -}}

{{/* What setup writes and workers compare with. */}}
{{- define "skillsync.env.streams" -}}
{{- with .Values.streams }}
{{- include "skillsync.env.one" (list "SKILLSYNC_REPLICAS" .replicas) }}
{{- include "skillsync.env.one" (list "SKILLSYNC_ACK_WAIT" .ackWait) }}
{{- include "skillsync.env.one" (list "SKILLSYNC_MAX_BYTES" .maxBytes) }}
{{- include "skillsync.env.one" (list "SKILLSYNC_DEAD_MAX_BYTES" .deadMaxBytes) }}
{{- include "skillsync.env.one" (list "SKILLSYNC_DEAD_MAX_AGE" .deadMaxAge) }}
{{- end }}
{{- end -}}

{{/* Environment of what talks to Genesys Cloud. */}}
{{- define "skillsync.env.org" -}}
{{- with .Values.genesys }}
{{- include "skillsync.env.one" (list "GENESYS_REGION" .region) }}
{{- include "skillsync.env.one" (list "GENESYS_API_URL" .apiURL) }}
{{- include "skillsync.env.one" (list "GENESYS_LOGIN_URL" .loginURL) }}
{{- include "skillsync.env.one" (list "GENESYS_PROFILE" .profile) }}
{{- include "skillsync.env.one" (list "GENESYS_EXTERNAL_ID_AUTHORITY" .externalIdAuthority) }}
{{- include "skillsync.env.one" (list "GENESYS_PATCH_OP" .patchOp) }}
{{- $secret := required "\n\ngenesys.existingSecret is missing: the Secret of the OAuth client (client credentials grant)\n" .existingSecret }}
{{- if .clientIdKey }}
- name: GENESYS_CLIENT_ID
  valueFrom:
    secretKeyRef: {name: {{ $secret }}, key: {{ .clientIdKey | quote }}}
{{- else }}
- {name: GENESYS_CLIENT_ID, value: {{ required "\n\ngenesys.clientId is missing: the id of the OAuth client; or set genesys.clientIdKey to the Secret's key that has it\n" .clientId | quote }}}
{{- end }}
- {name: GENESYS_CLIENT_SECRET_FILE, value: /run/secrets/skillsync/genesys-client-secret}
{{- include "skillsync.env.one" (list "SKILLSYNC_LIMIT" .limit) }}
{{- end }}
{{- end -}}

{{- define "skillsync.env.mapping" }}
{{- if include "skillsync.mapping" . }}
- {name: SKILLSYNC_MAPPING, value: /etc/skillsync/mapping.yaml}
{{- end }}
{{- end -}}

{{/* What the OpenTelemetry SDK reads. The pod's name tells workers apart. */}}
{{- define "skillsync.env.tracing" }}
{{- with .Values.tracing }}
{{- if .endpoint }}
- {name: OTEL_EXPORTER_OTLP_ENDPOINT, value: {{ .endpoint | quote }}}
- {name: OTEL_EXPORTER_OTLP_PROTOCOL, value: {{ .protocol | quote }}}
- {name: OTEL_TRACES_SAMPLER, value: parentbased_traceidratio}
- {name: OTEL_TRACES_SAMPLER_ARG, value: {{ toString .ratio | quote }}}
- name: POD_NAME
  valueFrom: {fieldRef: {fieldPath: metadata.name}}
- {name: OTEL_RESOURCE_ATTRIBUTES, value: {{ printf "service.instance.id=$(POD_NAME),k8s.pod.name=$(POD_NAME),k8s.namespace.name=%s" $.Release.Namespace | quote }}}
{{- end }}
{{- end }}
{{- end -}}

{{- define "skillsync.files.org" }}
- secret:
    name: {{ .Values.genesys.existingSecret }}
    items: [{key: {{ .Values.genesys.clientSecretKey | quote }}, path: genesys-client-secret}]
{{- end -}}

{{/* The ConfigMap that has the mapping; empty: the built-in one. */}}
{{- define "skillsync.mapping" -}}
{{- with .Values.mapping -}}
{{- if and .value .existingConfigMap -}}
{{- fail "\n\nmapping: value and existingConfigMap are both set; set one\n" -}}
{{- end -}}
{{- if .value -}}
{{ include "skillsync.fullname" $ }}-mapping
{{- else -}}
{{ .existingConfigMap }}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Volumes of a pod: its Secrets, if it has any, and the mapping, if it reads one. Called with
     (list $ FILES mapping?). */}}
{{- define "skillsync.volumes" -}}
{{- $root := index . 0 -}}
{{- if trim (index . 1) }}
- name: secrets
  projected:
    # For the group, which is podSecurityContext's fsGroup.
    defaultMode: 0440
    sources:
      {{- index . 1 | trim | nindent 6 }}
{{- end }}
{{- if index . 2 }}
- name: mapping
  configMap:
    name: {{ include "skillsync.mapping" $root }}
    items: [{key: {{ ternary "mapping.yaml" $root.Values.mapping.key (not (empty $root.Values.mapping.value)) | quote }}, path: mapping.yaml}]
{{- end }}
{{- end -}}

{{- define "skillsync.mounts" -}}
{{- if trim (index . 1) }}
- {name: secrets, mountPath: /run/secrets/skillsync, readOnly: true}
{{- end }}
{{- if index . 2 }}
- {name: mapping, mountPath: /etc/skillsync, readOnly: true}
{{- end }}
{{- end -}}

{{/* What all pods have in common. */}}
{{- define "skillsync.pod" -}}
{{- with .Values.imagePullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.serviceAccountName }}
serviceAccountName: {{ . }}
{{- end }}
automountServiceAccountToken: false
# Kubernetes would describe the namespace's Services in variables: SKILLSYNC_PORT and the like,
# which the program takes for settings.
enableServiceLinks: false
{{- with .Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .Values.podSecurityContext }}
securityContext: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* What all containers have in common. */}}
{{- define "skillsync.container" -}}
image: {{ include "skillsync.image" . | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
{{- with .Values.securityContext }}
securityContext: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* A probe of a path on the port "ops". Called with (list "/livez" values). */}}
{{- define "skillsync.probe" -}}
httpGet: {path: {{ index . 0 }}, port: ops}
{{- with index . 1 }}
{{ toYaml . }}
{{- end }}
{{- end -}}
